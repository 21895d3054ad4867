//! From our request to the library's.

use std::collections::BTreeMap;

use genai::chat::{
    ChatMessage, ChatRequest, ContentPart as Part, MessageContent, Tool, ToolCall, ToolName,
    ToolResponse,
};
use runtime_core::{ContentPart, Message, ModelRequest, Role, ToolDefinition, ToolResult};

/// Turns a request into the library's.
pub(crate) fn chat_request(request: &ModelRequest) -> ChatRequest {
    let mut names = BTreeMap::new();
    for message in &request.messages {
        for call in message.tool_calls() {
            names.insert(call.id.as_str(), call.name.as_str());
        }
    }
    let messages = request.messages.iter();
    let messages = messages.filter_map(|message| chat_message(message, &names));
    let mut chat = ChatRequest::new(messages.collect());
    if !request.instructions.is_empty() {
        chat = chat.with_system(request.instructions.as_ref());
    }
    if !request.tools.is_empty() {
        chat = chat.with_tools(request.tools.iter().map(tool));
    }
    chat
}

fn tool(definition: &ToolDefinition) -> Tool {
    // By its variant: as a text, a tool called `web_search` would become the provider's own.
    Tool::new(ToolName::Custom(definition.name.clone()))
        .with_description(definition.description.clone())
        .with_schema(definition.input_schema.clone())
}

/// The message, or none if nothing of it can be sent: providers refuse empty messages.
fn chat_message(message: &Message, names: &BTreeMap<&str, &str>) -> Option<ChatMessage> {
    let parts: Vec<Part> = message
        .content
        .iter()
        .filter_map(|part| part_of(part, names))
        .collect();
    if parts.is_empty() {
        return None;
    }
    let content = MessageContent::from_parts(parts);
    Some(match message.role {
        Role::System => ChatMessage::system(content),
        Role::Assistant => ChatMessage::assistant(content),
        Role::Tool => ChatMessage::tool(content),
        // A role that is not known here speaks to the model as a user does.
        _ => ChatMessage::user(content),
    })
}

fn part_of(part: &ContentPart, names: &BTreeMap<&str, &str>) -> Option<Part> {
    match part {
        ContentPart::Text { text } if text.is_empty() => None,
        ContentPart::Text { text } => Some(Part::Text(text.clone())),
        ContentPart::ToolCall(call) => Some(Part::ToolCall(ToolCall {
            call_id: call.id.as_str().to_owned(),
            fn_name: call.name.clone(),
            fn_arguments: call.arguments.clone(),
            thought_signatures: None,
        })),
        ContentPart::ToolResult(result) => Some(Part::ToolResponse(response(result, names))),
        // What a model thought is its provider's own business: sent back without its signature
        // it would be refused.
        ContentPart::Reasoning { .. } => None,
        other => Some(Part::Text(note(other)?)),
    }
}

fn response(result: &ToolResult, names: &BTreeMap<&str, &str>) -> ToolResponse {
    let texts = result.content.iter().filter_map(|part| match part {
        ContentPart::Text { text } => Some(text.clone()),
        other => note(other),
    });
    let texts: Vec<String> = texts.collect();
    let mut text = texts.join("\n");
    if result.is_error {
        text.insert_str(0, "error: ");
    }
    let response = ToolResponse::new(result.call.as_str(), text);
    match names.get(result.call.as_str()) {
        Some(name) => response.with_fn_name(*name),
        None => response,
    }
}

/// What a model reads in place of what cannot be sent.
fn note(part: &ContentPart) -> Option<String> {
    match part {
        ContentPart::Attachment {
            digest,
            media_type,
            bytes,
        } => Some(format!(
            "[attachment that cannot be shown: {media_type}, {bytes} bytes, sha256 {digest}]"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use runtime_core::{CallId, ToolCall as Call};
    use serde_json::json;

    use super::*;

    fn request(messages: Vec<Message>) -> ModelRequest {
        ModelRequest {
            model: "m".to_owned(),
            instructions: Arc::from("Be brief."),
            messages: messages.into_iter().map(Arc::new).collect(),
            tools: Arc::from([]),
            idempotency_key: "k".to_owned(),
            output_schema: None,
        }
    }

    #[test]
    fn a_result_carries_the_name_of_its_tool_and_says_that_it_failed() {
        let id: CallId = "call-1".parse().unwrap();
        let call = ContentPart::ToolCall(Call {
            id: id.clone(),
            name: "look_up".to_owned(),
            arguments: json!({"city": "Oslo"}),
        });
        let asked = Message {
            role: Role::Assistant,
            content: vec![ContentPart::Reasoning { text: "hm".into() }, call],
        };
        let answered = Message {
            role: Role::Tool,
            content: vec![ContentPart::ToolResult(ToolResult::error(
                id,
                "no such city",
            ))],
        };
        let chat = chat_request(&request(vec![asked, answered]));
        assert_eq!(chat.system.as_deref(), Some("Be brief."));
        let calls = chat.messages[0].content.tool_calls();
        assert_eq!(calls[0].fn_name, "look_up");
        assert_eq!(chat.messages[0].content.parts().len(), 1, "no reasoning");
        let responses = chat.messages[1].content.tool_responses();
        assert_eq!(responses[0].fn_name.as_deref(), Some("look_up"));
        assert_eq!(responses[0].content, "error: no such city");
    }

    #[test]
    fn an_attachment_becomes_a_note_and_an_empty_message_is_left_out() {
        let digest = runtime_core::CanonicalEncoder::new("test").digest();
        let attachment = ContentPart::Attachment {
            digest,
            media_type: "image/png".to_owned(),
            bytes: 7,
        };
        let shown = Message {
            role: Role::User,
            content: vec![attachment],
        };
        let chat = chat_request(&request(vec![Message::text(Role::User, ""), shown]));
        assert_eq!(chat.messages.len(), 1);
        let text = chat.messages[0].content.first_text().unwrap();
        assert!(text.contains("image/png, 7 bytes"), "{text}");
    }
}
