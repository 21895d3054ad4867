//! Checking JSON values against JSON schemas, without I/O and the same everywhere.

use serde_json::{Map, Value};

/// How deep a check goes, through values and references; a schema that needs more is refused.
const DEPTH_MAX: usize = 64;

/// How many schemas one check may look at: schemas of strangers must not cost exponential time.
const STEPS_MAX: usize = 100_000;

/// Where and why a value does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", if path.is_empty() { "the whole value" } else { path })]
pub struct SchemaViolation {
    /// A JSON pointer to the part that does not fit; empty for the whole.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Checks a value against a JSON schema (draft 2020-12).
///
/// Checked are `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`,
/// `propertyNames`, `minProperties`, `maxProperties`, `items`, `prefixItems`, `minItems`,
/// `maxItems`, `uniqueItems`, `contains`, `minLength`, `maxLength`, `minimum`, `maximum`,
/// `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf` (of integers), `allOf`, `anyOf`, `oneOf`,
/// `not`, `if`/`then`/`else`, `dependentRequired`, and `$ref` inside the same schema. Other
/// keywords, such as `pattern` and `format`, are taken as annotations: they refuse nothing.
///
/// # Errors
/// The first [`SchemaViolation`] found; also for a reference that leads nowhere and for a schema
/// that takes more than 64 levels or 100,000 steps to check.
///
/// ```
/// use runtime_core::check_schema;
/// use serde_json::json;
///
/// let schema = json!({ "type": "object", "required": ["path"] });
/// assert!(check_schema(&schema, &json!({ "path": "a" })).is_ok());
/// assert!(check_schema(&schema, &json!({})).is_err());
/// ```
pub fn check_schema(schema: &Value, value: &Value) -> Result<(), SchemaViolation> {
    let mut check = Check {
        root: schema,
        path: String::new(),
        depth: 0,
        steps: 0,
        given_up: false,
    };
    check.schema(schema, value)
}

type Checked = Result<(), SchemaViolation>;

struct Check<'a> {
    root: &'a Value,
    path: String,
    depth: usize,
    steps: usize,
    given_up: bool,
}

impl<'a> Check<'a> {
    fn fail(&self, reason: impl Into<String>) -> Checked {
        Err(SchemaViolation {
            path: self.path.clone(),
            reason: reason.into(),
        })
    }

    fn ensure(&self, holds: bool, reason: impl FnOnce() -> String) -> Checked {
        if holds { Ok(()) } else { self.fail(reason()) }
    }

    fn schema(&mut self, schema: &'a Value, value: &Value) -> Checked {
        self.steps += 1;
        if self.depth >= DEPTH_MAX || self.steps > STEPS_MAX {
            self.given_up = true;
            return self.fail("the schema takes too long to check");
        }
        self.depth += 1;
        let checked = match schema {
            Value::Bool(false) => self.fail("nothing is allowed here"),
            Value::Object(members) => self.members(members, value),
            _ => Ok(()),
        };
        self.depth -= 1;
        checked
    }

    fn members(&mut self, schema: &'a Map<String, Value>, value: &Value) -> Checked {
        if let Some(Value::String(reference)) = schema.get("$ref") {
            let target = self.resolve(reference)?;
            self.schema(target, value)?;
        }
        self.generic(schema, value)?;
        self.combined(schema, value)?;
        match value {
            Value::Object(members) => self.object(schema, members),
            Value::Array(items) => self.array(schema, items),
            Value::String(text) => self.text(schema, text),
            Value::Number(_) => self.number(schema, value),
            _ => Ok(()),
        }
    }

    fn resolve(&self, reference: &str) -> Result<&'a Value, SchemaViolation> {
        let pointer = reference.strip_prefix('#');
        let target = pointer.and_then(|pointer| self.root.pointer(pointer));
        target.ok_or_else(|| SchemaViolation {
            path: self.path.clone(),
            reason: format!("the schema refers to {reference}, which is not in it"),
        })
    }

    fn generic(&self, schema: &Map<String, Value>, value: &Value) -> Checked {
        if let Some(kinds) = schema.get("type") {
            let fits = match kinds {
                Value::String(kind) => is_of(value, kind),
                Value::Array(kinds) => kinds
                    .iter()
                    .filter_map(Value::as_str)
                    .any(|kind| is_of(value, kind)),
                _ => true,
            };
            self.ensure(fits, || format!("it is not of type {kinds}"))?;
        }
        if let Some(Value::Array(allowed)) = schema.get("enum") {
            let fits = allowed.iter().any(|one| equal(one, value));
            self.ensure(fits, || "it is none of the values allowed".to_owned())?;
        }
        if let Some(constant) = schema.get("const") {
            self.ensure(equal(constant, value), || format!("it is not {constant}"))?;
        }
        Ok(())
    }

    fn combined(&mut self, schema: &'a Map<String, Value>, value: &Value) -> Checked {
        for part in list(schema, "allOf") {
            self.schema(part, value)?;
        }
        if let Some(Value::Array(choices)) = schema.get("anyOf") {
            let fits = self.fitting(choices, value)? > 0;
            self.ensure(fits, || "it fits none of the choices".to_owned())?;
        }
        if let Some(Value::Array(choices)) = schema.get("oneOf") {
            let fits = self.fitting(choices, value)?;
            self.ensure(fits == 1, || format!("it fits {fits} choices instead of 1"))?;
        }
        if let Some(forbidden) = schema.get("not") {
            let fits = self.fits(forbidden, value)?;
            self.ensure(!fits, || "it is what must not be".to_owned())?;
        }
        if let Some(condition) = schema.get("if") {
            let branch = match self.fits(condition, value)? {
                true => "then",
                false => "else",
            };
            if let Some(branch) = schema.get(branch) {
                self.schema(branch, value)?;
            }
        }
        Ok(())
    }

    fn fitting(&mut self, choices: &'a [Value], value: &Value) -> Result<usize, SchemaViolation> {
        let mut fitting = 0;
        for choice in choices {
            fitting += usize::from(self.fits(choice, value)?);
        }
        Ok(fitting)
    }

    /// Whether it fits; an error only when the check itself must be given up.
    fn fits(&mut self, schema: &'a Value, value: &Value) -> Result<bool, SchemaViolation> {
        let (path, depth) = (self.path.len(), self.depth);
        let checked = self.schema(schema, value);
        self.path.truncate(path);
        self.depth = depth;
        match checked {
            Ok(()) => Ok(true),
            Err(violation) if self.given_up => Err(violation),
            Err(_) => Ok(false),
        }
    }

    fn at(&mut self, step: &str, schema: &'a Value, value: &Value) -> Checked {
        let before = self.path.len();
        self.path.push('/');
        self.path
            .push_str(&step.replace('~', "~0").replace('/', "~1"));
        let checked = self.schema(schema, value);
        self.path.truncate(before);
        checked
    }

    fn object(&mut self, schema: &'a Map<String, Value>, members: &Map<String, Value>) -> Checked {
        for name in list(schema, "required").filter_map(Value::as_str) {
            self.ensure(members.contains_key(name), || format!("{name} is missing"))?;
        }
        self.count(schema, "Properties", members.len())?;
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, value) in members {
            if let Some(names) = schema.get("propertyNames") {
                self.schema(names, &Value::String(name.clone()))?;
            }
            match properties.and_then(|properties| properties.get(name)) {
                Some(property) => self.at(name, property, value)?,
                // Which names a pattern covers is not known here, so none is called additional.
                None if schema.contains_key("patternProperties") => {}
                None => match schema.get("additionalProperties") {
                    Some(Value::Bool(false)) => {
                        self.fail(format!("there must be no member {name}"))?;
                    }
                    Some(additional) => self.at(name, additional, value)?,
                    None => {}
                },
            }
        }
        let dependent = schema.get("dependentRequired").and_then(Value::as_object);
        for (name, needed) in dependent.into_iter().flatten() {
            let needed = needed.as_array().into_iter().flatten();
            for other in needed.filter_map(Value::as_str) {
                let holds = !members.contains_key(name) || members.contains_key(other);
                self.ensure(holds, || format!("{name} is there without {other}"))?;
            }
        }
        Ok(())
    }

    fn array(&mut self, schema: &'a Map<String, Value>, items: &[Value]) -> Checked {
        self.count(schema, "Items", items.len())?;
        let first: Vec<&Value> = list(schema, "prefixItems").collect();
        for (at, item) in items.iter().enumerate() {
            let step = at.to_string();
            match (first.get(at), schema.get("items")) {
                (Some(own), _) => self.at(&step, own, item)?,
                (None, Some(each)) => self.at(&step, each, item)?,
                (None, None) => {}
            }
        }
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            let mut texts: Vec<String> = items.iter().map(canonical).collect();
            texts.sort_unstable();
            let repeated = texts.windows(2).any(|pair| pair[0] == pair[1]);
            self.ensure(!repeated, || "an item comes twice".to_owned())?;
        }
        if let Some(wanted) = schema.get("contains") {
            let mut found = 0;
            for item in items {
                found += usize::from(self.fits(wanted, item)?);
            }
            let least = schema.get("minContains").and_then(Value::as_u64);
            let most = schema.get("maxContains").and_then(Value::as_u64);
            let holds =
                found as u64 >= least.unwrap_or(1) && most.is_none_or(|most| found as u64 <= most);
            self.ensure(holds, || format!("{found} items are as wanted"))?;
        }
        Ok(())
    }

    fn text(&self, schema: &Map<String, Value>, text: &str) -> Checked {
        self.count(schema, "Length", text.chars().count())
    }

    fn count(&self, schema: &Map<String, Value>, what: &str, count: usize) -> Checked {
        let bound = |side: &str| schema.get(&format!("{side}{what}")).and_then(Value::as_f64);
        let count = count as f64;
        self.ensure(bound("min").is_none_or(|min| count >= min), || {
            format!("it has {count}, fewer than min{what} allows")
        })?;
        self.ensure(bound("max").is_none_or(|max| count <= max), || {
            format!("it has {count}, more than max{what} allows")
        })
    }

    fn number(&self, schema: &Map<String, Value>, value: &Value) -> Checked {
        let number = value.as_f64().unwrap_or(f64::NAN);
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let bounds = [
            ("minimum", bound("minimum").is_none_or(|min| number >= min)),
            ("maximum", bound("maximum").is_none_or(|max| number <= max)),
            (
                "exclusiveMinimum",
                bound("exclusiveMinimum").is_none_or(|min| number > min),
            ),
            (
                "exclusiveMaximum",
                bound("exclusiveMaximum").is_none_or(|max| number < max),
            ),
        ];
        for (name, holds) in bounds {
            self.ensure(holds, || format!("it is outside {name}"))?;
        }
        // Of fractions, divisibility is a question of rounding: not asked.
        let divisor = schema.get("multipleOf").and_then(Value::as_i64);
        if let (Some(divisor), Some(number)) = (divisor, value.as_i64())
            && divisor > 0
        {
            let holds = number % divisor == 0;
            self.ensure(holds, || format!("it is no multiple of {divisor}"))?;
        }
        Ok(())
    }
}

fn list<'a>(
    schema: &'a Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a Value> + use<'a> {
    let items = schema.get(name).and_then(Value::as_array);
    items.into_iter().flatten()
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => {
            value.is_i64()
                || value.is_u64()
                || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        // A kind that no draft knows refuses nothing.
        _ => true,
    }
}

/// Equal as JSON: numbers by value, so that 1 is 1.0.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(_), Value::Number(_)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(name, one)| other.get(name).is_some_and(|other| equal(one, other)))
        }
        _ => one == other,
    }
}

/// A text that is equal for equal values.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (None, Some(number)) if number.fract() == 0.0 && number.abs() < 9e15 => {
                format!("{number:.0}")
            }
            _ => number.to_string(),
        },
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(members) => {
            let mut members: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)))
                .collect();
            members.sort_unstable();
            format!("{{{}}}", members.join(","))
        }
        other => other.to_string(),
    }
}
