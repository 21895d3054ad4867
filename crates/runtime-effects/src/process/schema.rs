//! JSON schemas of declared events.

use runtime_core::{ProcessEventType, ProcessRegistration};
use serde_json::Value;

use super::ProcessError;
use super::limits::ProcessLimits;

/// How many places that do not fit are named.
#[cfg(feature = "json-schema")]
const REASONS_MAX: usize = 8;

/// The longest name of an event type or signal.
const NAME_BYTES_MAX: usize = 128;

/// Checks a name by the grammar of event types and signals.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), ProcessError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.chars().all(legal) {
        return Err(ProcessError::Name {
            what,
            name: name.chars().take(NAME_BYTES_MAX).collect(),
        });
    }
    Ok(())
}

/// Checks everything that must hold of a registration before it is written.
pub(crate) fn check_registration(
    registration: &ProcessRegistration,
    limits: &ProcessLimits,
) -> Result<(), ProcessError> {
    let encoded = serde_json::to_vec(registration).expect("a registration is plain data");
    check_size("registration", encoded.len(), limits.registration_bytes_max)?;
    let declared = &registration.event_types;
    check_size(
        "list of event types",
        declared.len(),
        limits.event_types_max,
    )?;
    for (index, event_type) in declared.iter().enumerate() {
        check_name("an event type", &event_type.name)?;
        let twice = declared[..index]
            .iter()
            .any(|earlier| earlier.name == event_type.name);
        if twice {
            return Err(ProcessError::Schema {
                name: event_type.name.clone(),
                reason: "it is declared twice".to_owned(),
            });
        }
        check_schema(event_type)?;
    }
    Ok(())
}

pub(crate) fn check_size(what: &'static str, size: usize, max: usize) -> Result<(), ProcessError> {
    if size > max {
        return Err(ProcessError::TooLarge { what, size, max });
    }
    Ok(())
}

#[cfg(feature = "json-schema")]
fn check_schema(event_type: &ProcessEventType) -> Result<(), ProcessError> {
    validator(event_type).map(drop)
}

#[cfg(feature = "json-schema")]
fn validator(event_type: &ProcessEventType) -> Result<Option<jsonschema::Validator>, ProcessError> {
    let Some(schema) = &event_type.schema else {
        return Ok(None);
    };
    // Without a resolver, a reference to anything outside the schema is an error, never a fetch.
    match jsonschema::validator_for(schema) {
        Ok(validator) => Ok(Some(validator)),
        Err(error) => Err(ProcessError::Schema {
            name: event_type.name.clone(),
            reason: error.to_string(),
        }),
    }
}

/// Checks a payload against the schema that its type declares.
#[cfg(feature = "json-schema")]
pub(crate) fn check_payload(
    event_type: &ProcessEventType,
    payload: &Value,
) -> Result<(), ProcessError> {
    let Some(validator) = validator(event_type)? else {
        return Ok(());
    };
    let reasons: Vec<String> = validator
        .iter_errors(payload)
        .take(REASONS_MAX)
        // The keyword and the place; the library's own text would quote the value.
        .map(|error| {
            format!(
                "{} at {:?}",
                error.schema_path(),
                error.instance_path().to_string()
            )
        })
        .collect();
    if reasons.is_empty() {
        return Ok(());
    }
    Err(ProcessError::EventPayload {
        name: event_type.name.clone(),
        reasons,
    })
}

#[cfg(not(feature = "json-schema"))]
fn check_schema(event_type: &ProcessEventType) -> Result<(), ProcessError> {
    check_payload(event_type, &Value::Null)
}

/// A schema that cannot be checked is refused, never passed over.
#[cfg(not(feature = "json-schema"))]
pub(crate) fn check_payload(
    event_type: &ProcessEventType,
    _payload: &Value,
) -> Result<(), ProcessError> {
    match event_type.schema {
        None => Ok(()),
        Some(_) => Err(ProcessError::SchemaUnsupported {
            name: event_type.name.clone(),
        }),
    }
}
