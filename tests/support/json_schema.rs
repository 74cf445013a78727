//! As much of JSON Schema as the schema of the program's output uses.

use serde_json::Value;

/// The first place in which `value` is not as the definition `name` says, if there is one.
pub fn violation(name: &str, value: &Value) -> Option<String> {
    let schema: Value =
        serde_json::from_str(include_str!("../../src/docs/output.schema.json")).expect("JSON");
    let definition = &schema["$defs"][name];
    assert!(definition.is_object(), "no definition {name}");
    check(definition, value, name)
}

fn check(schema: &Value, value: &Value, place: &str) -> Option<String> {
    let wrong = |what: &str| Some(format!("{place}: {what}: {value}"));
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().collect(),
        kind => vec![kind],
    };
    if !kinds.iter().any(|kind| is(value, kind.as_str().expect("a type's name"))) {
        return wrong("its type");
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return wrong("not one of the values");
    }
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < least
    {
        return wrong("too small");
    }
    if let (Some("date-time"), Some(text)) = (schema["format"].as_str(), value.as_str())
        && text.parse::<jiff::Timestamp>().is_err()
    {
        return wrong("no moment");
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                return wrong(&format!("{name} is missing"));
            }
        }
        for (name, field) in fields {
            // What is not described is a fault of the schema: users may meet new fields, the tests may not.
            let Some(property) = properties.get(name) else {
                return wrong(&format!("{name} is not described"));
            };
            if let Some(found) = check(property, field, &format!("{place}.{name}")) {
                return Some(found);
            }
        }
    }
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|item| check(&schema["items"], item, &format!("{place}[]"))).next()
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other}"),
    }
}
