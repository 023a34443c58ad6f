//! JSON Schema files (2020-12): validating payloads before they are appended, and the typed columns that a schema means
//! for stores that have columns.

mod columns;

use std::fmt;
use std::path::Path;

use primal_core::Table;
use serde_json::Value;

/// How many violations a refusal names.
const NAMED: usize = 5;

/// A schema file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("schema {file}: {problem}")]
pub struct SchemaError {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A schema, compiled.
pub struct Schema {
    id: Option<String>,
    validator: jsonschema::Validator,
    columns: Result<Table, String>,
    file: String,
}

impl Schema {
    /// Reads and compiles a file. References to other files or addresses are not followed.
    ///
    /// # Errors
    /// The file cannot be read, is not JSON or is no schema.
    pub fn load(path: &Path) -> Result<Self, SchemaError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| SchemaError { file: file.clone(), problem: format!("cannot be read: {e}") })?;
        Schema::parse(&file, &text)
    }

    /// Compiles a text; `file` is for messages.
    ///
    /// # Errors
    /// The text is not JSON or is no schema.
    pub fn parse(file: &str, text: &str) -> Result<Self, SchemaError> {
        let problem = |problem: String| SchemaError { file: file.to_owned(), problem };
        let value: Value = serde_json::from_str(text).map_err(|e| problem(format!("is not JSON: {e}")))?;
        let validator = jsonschema::validator_for(&value).map_err(|e| problem(format!("is no schema: {e}")))?;
        let id = value.get("$id").and_then(Value::as_str).map(str::to_owned);
        Ok(Schema { id, validator, columns: columns::columns(text, &value), file: file.to_owned() })
    }

    /// The `$id`, if it has one: what events name as their `dataschema`.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Checks a payload.
    ///
    /// # Errors
    /// The first violations, each with the place in the payload.
    pub fn validate(&self, payload: &str) -> Result<(), Vec<String>> {
        let value: Value = serde_json::from_str(payload).map_err(|e| vec![format!("not JSON: {e}")])?;
        if self.validator.is_valid(&value) {
            return Ok(());
        }
        let violation = |error: jsonschema::ValidationError<'_>| {
            let place = error.instance_path().to_string();
            format!("{}: {error}", if place.is_empty() { "/" } else { &place })
        };
        Err(self.validator.iter_errors(&value).take(NAMED).map(violation).collect())
    }

    /// Its properties as columns, in their order.
    ///
    /// # Errors
    /// A property that cannot be a column.
    pub fn table(&self) -> Result<Table, SchemaError> {
        self.columns.clone().map_err(|problem| SchemaError { file: self.file.clone(), problem })
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WORDS: &[&str] = &[
        "type",
        "properties",
        "$ref",
        "#/properties/a",
        "#",
        "format",
        "date-time",
        "integer",
        "$id",
        "a",
        "_b",
        "A",
        "",
    ];

    /// JSON of the words that schemas are made of, rightly used or not.
    fn json() -> impl Strategy<Value = Value> {
        let word = || prop::sample::select(WORDS);
        let leaf = prop_oneof![
            word().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            let member = (word().prop_map(str::to_owned), inner.clone());
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                prop::collection::vec(member, 0..5).prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_a_schema_or_refused_and_so_is_any_payload(schema in json(), payload in json()) {
            match Schema::parse("s.json", &schema.to_string()) {
                Ok(schema) => {
                    let _ = schema.validate(&payload.to_string());
                    if let Ok(table) = schema.table() {
                        let names: Vec<_> = table.columns().iter().map(|column| column.name.to_lowercase()).collect();
                        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
                        prop_assert_eq!(names.len(), distinct.len());
                    }
                }
                Err(error) => prop_assert!(error.to_string().starts_with("schema s.json: ")),
            }
        }

        #[test]
        fn any_text_is_a_schema_or_refused(text in "\\PC{0,60}") {
            let _ = Schema::parse("s.json", &text);
        }
    }
}
