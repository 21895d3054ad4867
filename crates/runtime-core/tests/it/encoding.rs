//! C2: one canonical encoding. Golden vectors keep it; a decoder shows that it is injective.

use std::collections::BTreeMap;

use proptest::prelude::*;
use runtime_core::{
    CallId, CanonicalEncoder, Digest, EffectCommand, EffectEnvelope, EffectKind, ExecutionScope,
    LlmCall, Message, ProcessId, ReplayKey, Role, SessionId, ToolCallCommand, TurnId,
};
use serde_json::{Map, Number, Value, json};

const GOLDEN: &str = include_str!("../golden/encoding-v1.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoder() -> CanonicalEncoder {
    CanonicalEncoder::new("golden")
}

fn turn(session: &str, turn: &str) -> ExecutionScope {
    ExecutionScope::Turn {
        session: SessionId::new(session).unwrap(),
        turn: TurnId::new(turn).unwrap(),
    }
}

/// Each golden case by name: the encoding of version 1.
fn cases() -> BTreeMap<&'static str, Vec<u8>> {
    let of_json = |value: Value| encoder().json(&value).finish();
    BTreeMap::from([
        ("empty", encoder().finish()),
        ("empty-domain", CanonicalEncoder::new("").finish()),
        ("text", encoder().text("grüß dich").finish()),
        ("text-empty", encoder().text("").finish()),
        ("bytes", encoder().bytes(&[0, 1, 254, 255]).finish()),
        ("unsigned-zero", encoder().unsigned(0).finish()),
        ("unsigned-max", encoder().unsigned(u64::MAX).finish()),
        ("pair-a:b-c", encoder().text("a:b").text("c").finish()),
        ("pair-a-b:c", encoder().text("a").text("b:c").finish()),
        ("json-null", of_json(json!(null))),
        ("json-bools", of_json(json!([false, true]))),
        (
            "json-integers",
            of_json(json!([0, 1, -1, i64::MIN, u64::MAX])),
        ),
        ("json-floats", of_json(json!([0.5, -0.5, 1e300, 1.5e-7]))),
        ("json-whole-floats", of_json(json!([1.0, -2.0, -0.0, 1e15]))),
        ("json-string", of_json(json!("\"\\\n€"))),
        (
            "json-nested",
            of_json(json!({"b": [], "a": {"": {}, "z": [null]}, "ab": 1})),
        ),
    ])
}

/// Digests of whole identities: what open turns and given-out names hang on.
fn digests() -> BTreeMap<&'static str, Digest> {
    let key = ReplayKey::turn(2, EffectKind::ToolCall, 1);
    let command = EffectCommand::ToolCall(ToolCallCommand {
        call: CallId::new("call_7").unwrap(),
        tool: "ledger__append".to_owned(),
        arguments: Digest::of_bytes(b"{}"),
    });
    let tool_call = EffectEnvelope::new(turn("desk", "t1"), key, command).unwrap();
    let llm_call = EffectCommand::LlmCall(LlmCall {
        model: "scripted".to_owned(),
        context: Digest::of_bytes(b"context"),
        messages: 3,
        prompt: Digest::of_bytes(b"prompt"),
        tools: Digest::of_bytes(b"tools"),
    });
    let key = ReplayKey::turn(0, EffectKind::LlmCall, 0);
    let llm_call = EffectEnvelope::new(turn("desk", "t1"), key, llm_call).unwrap();
    let hello = Message::text(Role::User, "hello");
    BTreeMap::from([
        ("envelope-tool-call", tool_call.digest()),
        (
            "idempotency-key",
            tool_call.idempotency_key().parse().unwrap(),
        ),
        ("envelope-llm-call", llm_call.digest()),
        ("context-chain", hello.chained(&Digest::of_bytes(b""))),
    ])
}

/// A change of the encoding would park every open turn and void every token given out. If a
/// vector must change, the version must change too, and the old file stays.
#[test]
fn c2_golden_vectors() {
    let mut golden = BTreeMap::new();
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once(' ').unwrap();
        assert!(
            golden.insert(name, value).is_none(),
            "{name} is there twice"
        );
    }
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    found.extend(cases().into_iter().map(|(name, bytes)| (name, hex(&bytes))));
    found.extend(
        digests()
            .into_iter()
            .map(|(name, digest)| (name, digest.to_string())),
    );
    for (name, value) in &found {
        assert_eq!(golden.get(name), Some(&value.as_str()), "{name}");
    }
    assert_eq!(golden.len(), found.len(), "a golden vector is not checked");
}

#[test]
fn c2_fields_do_not_run_into_each_other() {
    let pair = |one: &str, two: &str| encoder().text(one).text(two).digest();
    assert_ne!(pair("a:b", "c"), pair("a", "b:c"));
    assert_ne!(pair("ab", ""), pair("a", "b"));
    assert_ne!(encoder().text("a").digest(), encoder().bytes(b"a").digest());
    assert_ne!(
        CanonicalEncoder::new("one").text("a").digest(),
        CanonicalEncoder::new("two").text("a").digest()
    );
}

#[test]
fn c2_three_scopes() {
    let process = ExecutionScope::Process {
        process: ProcessId::new("1").unwrap(),
    };
    let scopes = [turn("s1", "1"), turn("s2", "1"), process];
    let ids = scopes.map(|scope| scope.scope_id());
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
}

#[test]
fn c2_whatever_parsed_a_number_it_is_the_same_number() {
    let digest = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        encoder().json(&value).digest()
    };
    for same in [
        ["1", "1.0"],
        ["0", "-0.0"],
        ["-3", "-3.0e0"],
        ["100", "1e2"],
        ["18446744073709549568", "18446744073709549568.0"],
        [r#"{"a":1,"b":2}"#, r#"{ "b": 2.0, "a": 1 }"#],
    ] {
        assert_eq!(digest(same[0]), digest(same[1]), "{same:?}");
    }
    for different in [
        ["1", "1.5"],
        ["1", "\"1\""],
        ["1", "true"],
        ["-1", "18446744073709551615"],
        ["9007199254740993", "9007199254740992.0"],
        ["[[1],2]", "[[1,2]]"],
        ["{}", "[]"],
        ["null", "\"\""],
    ] {
        assert_ne!(digest(different[0]), digest(different[1]), "{different:?}");
    }
}

/// A field of an encoding.
#[derive(Debug, Clone, PartialEq)]
enum Field {
    Text(String),
    Bytes(Vec<u8>),
    Unsigned(u64),
    Json(Value),
}

fn encode(domain: &str, fields: &[Field]) -> Vec<u8> {
    let start = CanonicalEncoder::new(domain);
    let encoder = fields.iter().fold(start, |encoder, field| match field {
        Field::Text(text) => encoder.text(text),
        Field::Bytes(bytes) => encoder.bytes(bytes),
        Field::Unsigned(number) => encoder.unsigned(*number),
        Field::Json(value) => encoder.json(value),
    });
    encoder.finish()
}

/// Reads an encoding back. That this is possible for each is what injective means.
struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn tag(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn count(&mut self) -> usize {
        u32::from_be_bytes(self.take(4).try_into().unwrap()) as usize
    }

    fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().unwrap())
    }

    fn bytes(&mut self) -> &'a [u8] {
        let count = self.count();
        self.take(count)
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    fn field(&mut self) -> Field {
        match self.tag() {
            b't' => Field::Text(self.text()),
            b'b' => Field::Bytes(self.bytes().to_vec()),
            b'u' => Field::Unsigned(self.number()),
            b'j' => Field::Json(self.value()),
            tag => panic!("no field starts with {tag}"),
        }
    }

    fn value(&mut self) -> Value {
        match self.tag() {
            b'n' => Value::Null,
            b'f' => false.into(),
            b't' => true.into(),
            b'p' => self.number().into(),
            b'm' => self.number().cast_signed().into(),
            b'd' => f64::from_bits(self.number()).into(),
            b's' => self.text().into(),
            b'a' => (0..self.count()).map(|_| self.value()).collect(),
            b'o' => {
                let members = (0..self.count()).map(|_| (self.text(), self.value()));
                Value::Object(members.collect())
            }
            tag => panic!("no value starts with {tag}"),
        }
    }
}

fn decode(encoding: &[u8]) -> (String, Vec<Field>) {
    let mut decoder = Decoder(encoding);
    assert_eq!(decoder.tag(), 1, "the version");
    let domain = decoder.text();
    let mut fields = Vec::new();
    while !decoder.0.is_empty() {
        fields.push(decoder.field());
    }
    (domain, fields)
}

/// Numbers as RFC 8785 sees them: a float that is an integer is that integer.
fn normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => normal_number(number),
        Value::Array(items) => items.iter().map(normal).collect(),
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(key, value)| (key.clone(), normal(value)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn normal_number(number: &Number) -> Value {
    if number.is_f64() {
        // The shortest text of a whole float below 10^17 is that of the integer.
        let text = number.as_f64().unwrap().to_string();
        if let Ok(whole) = text.parse::<u64>() {
            return whole.into();
        }
        if let Ok(whole) = text.parse::<i64>() {
            return whole.into();
        }
    }
    Value::Number(number.clone())
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i32..4).prop_map(|whole| Value::from(f64::from(whole))),
        (-1e15..1e15_f64).prop_map(Value::from),
        "[ab:]{0,3}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let members = prop::collection::btree_map("[ab]{0,2}", inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            members.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_field() -> impl Strategy<Value = Field> {
    prop_oneof![
        "[ab:]{0,3}".prop_map(Field::Text),
        any::<String>().prop_map(Field::Text),
        prop::collection::vec(any::<u8>(), 0..6).prop_map(Field::Bytes),
        any::<u64>().prop_map(Field::Unsigned),
        any_json().prop_map(Field::Json),
    ]
}

fn normal_fields(fields: &[Field]) -> Vec<Field> {
    let normal_field = |field: &Field| match field {
        Field::Json(value) => Field::Json(normal(value)),
        other => other.clone(),
    };
    fields.iter().map(normal_field).collect()
}

proptest! {
    #[test]
    fn c2_every_encoding_can_be_read_back(
        domain in "[ab]{0,3}",
        fields in prop::collection::vec(any_field(), 0..6),
    ) {
        let expected = (domain.clone(), normal_fields(&fields));
        prop_assert_eq!(decode(&encode(&domain, &fields)), expected);
    }

    /// Small texts, so that the same bytes meet in many groupings.
    #[test]
    fn c2_two_sequences_share_no_encoding(
        one in prop::collection::vec("[a:]{0,2}", 0..4),
        two in prop::collection::vec("[a:]{0,2}", 0..4),
    ) {
        let encode = |texts: &[String]| {
            let encoder = texts.iter().fold(encoder(), |encoder, text| encoder.text(text));
            encoder.finish()
        };
        prop_assert_eq!(encode(&one) == encode(&two), one == two);
    }

    #[test]
    fn c2_the_order_of_keys_does_not_count(
        members in prop::collection::btree_map("[a-e]{1,2}", any_json(), 0..6),
    ) {
        let forward: Map<_, _> = members.clone().into_iter().collect();
        let backward: Map<_, _> = members.into_iter().rev().collect();
        let digest = |members| encoder().json(&Value::Object(members)).digest();
        prop_assert_eq!(digest(forward), digest(backward));
    }

    #[test]
    fn c2_a_digest_survives_its_text(bytes: [u8; 32]) {
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        prop_assert_eq!(digest.to_string(), hex(&bytes));
        let json = serde_json::to_value(digest).unwrap();
        prop_assert_eq!(serde_json::from_value::<Digest>(json).unwrap(), digest);
    }
}

#[test]
fn c2_text_that_is_no_digest_is_refused() {
    let good = Digest::of_bytes(b"").to_string();
    let upper = good.to_uppercase();
    let cut = &good[1..];
    let other = format!("{}g", &good[..63]);
    let wide = format!("ä{}", &good[2..]);
    for bad in ["", &upper, cut, &other, &wide] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
}
