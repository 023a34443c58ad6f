//! Settings: what a config file says, as a tree in which every value knows its line, and the reading of it into typed
//! structs by serde. Errors name file, line and field, and the nearest known name.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use crate::nearest::hint;

/// A value of a config file and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Counted from 1.
    pub line: usize,
    /// What it is.
    pub value: Value,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the file's order; each key with its line.
    Map(Vec<(String, usize, Node)>),
}

/// A part of a config file, still untyped.
#[derive(Clone, Debug)]
pub struct Settings {
    file: Arc<str>,
    path: String,
    node: Node,
}

impl Settings {
    /// A part of `file` that stands at `path` (such as `sinks.pg`).
    pub fn new(file: impl Into<Arc<str>>, path: impl Into<String>, node: Node) -> Self {
        Settings { file: file.into(), path: path.into(), node }
    }

    /// Reads it into a struct.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        T::deserialize(At { node: &self.node, path: &self.path }).map_err(|mut error| {
            error.file = self.file.to_string();
            error
        })
    }

    /// The members of a mapping, each as settings of its own; empty for null.
    ///
    /// # Errors
    /// It is no mapping.
    pub fn members(&self) -> Result<Vec<(String, Settings)>, SettingsError> {
        match &self.node.value {
            Value::Null => Ok(Vec::new()),
            Value::Map(members) => Ok(members
                .iter()
                .map(|(name, _, node)| {
                    let path = join(&self.path, name);
                    (name.clone(), Settings { file: self.file.clone(), path, node: node.clone() })
                })
                .collect()),
            _ => Err(self.error("expected a mapping")),
        }
    }

    /// One member of a mapping.
    ///
    /// # Errors
    /// It is no mapping.
    pub fn member(&self, name: &str) -> Result<Option<Settings>, SettingsError> {
        Ok(self.members()?.into_iter().find(|(known, _)| known == name).map(|(_, settings)| settings))
    }

    /// The same mapping without some members, for a reader that does not know them.
    #[must_use]
    pub fn without(&self, names: &[&str]) -> Self {
        let mut rest = self.clone();
        if let Value::Map(members) = &mut rest.node.value {
            members.retain(|(name, _, _)| !names.contains(&name.as_str()));
        }
        rest
    }

    /// An error about this part as a whole, or one of its fields.
    pub fn error(&self, message: impl Into<String>) -> SettingsError {
        SettingsError {
            file: self.file.to_string(),
            line: Some(self.node.line),
            path: self.path.clone(),
            message: message.into(),
        }
    }
}

/// Something in a config file is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsError {
    /// The file.
    pub file: String,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// The field, such as `sinks.pg.url`.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl SettingsError {
    fn at(mut self, line: usize, path: &str) -> Self {
        if self.line.is_none() {
            self.line = Some(line);
            self.path = path.to_owned();
        }
        self
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for SettingsError {}

impl de::Error for SettingsError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        SettingsError { message: message.to_string(), ..SettingsError::default() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("unknown field `{field}`{}", hint(field, expected.iter().copied())))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("unknown value `{variant}`{}", hint(variant, expected.iter().copied())))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("the field `{field}` is missing"))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

struct At<'a> {
    node: &'a Node,
    path: &'a str,
}

impl<'de> Deserializer<'de> for At<'_> {
    type Error = SettingsError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Int(n) => match u64::try_from(*n) {
                Ok(n) => visitor.visit_u64(n),
                Err(_) => visitor.visit_i64(*n),
            },
            Value::Float(n) => visitor.visit_f64(*n),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter().enumerate(), path: self.path }),
            Value::Map(members) => visitor.visit_map(Members { members: members.iter(), value: None, path: self.path }),
        };
        result.map_err(|error| error.at(self.node.line, self.path))
    }

    /// A name with nothing behind it is an empty mapping where a mapping is wanted.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
        if self.node.value == Value::Null {
            return visitor.visit_map(Members { members: [].iter(), value: None, path: self.path });
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
        if self.node.value == Value::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, SettingsError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SettingsError> {
        let result = match &self.node.value {
            Value::Text(text) => {
                let name: StrDeserializer<'_, SettingsError> = text.as_str().into_deserializer();
                visitor.visit_enum(name)
            }
            Value::Map(members) => {
                let members = Members { members: members.iter(), value: None, path: self.path };
                visitor.visit_enum(MapAccessDeserializer::new(members))
            }
            _ => Err(de::Error::custom("expected a name, or a mapping with one name")),
        };
        result.map_err(|error| error.at(self.node.line, self.path))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct struct identifier ignored_any
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    path: &'a str,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = SettingsError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, SettingsError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        seed.deserialize(At { node, path: &format!("{}[{index}]", self.path) }).map(Some)
    }
}

struct Members<'a> {
    members: std::slice::Iter<'a, (String, usize, Node)>,
    value: Option<(&'a str, &'a Node)>,
    path: &'a str,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = SettingsError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, SettingsError> {
        let Some((name, line, node)) = self.members.next() else { return Ok(None) };
        self.value = Some((name, node));
        let key: StrDeserializer<'_, SettingsError> = name.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.at(*line, self.path))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, SettingsError> {
        match self.value.take() {
            Some((name, node)) => seed.deserialize(At { node, path: &join(self.path, name) }),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}

/// Text that must not be shown: a password, a token, an address that contains one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the driver.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// An address for messages: the part between `//` and `@` shows no password.
    pub fn without_password(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else { return "…".to_owned() };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let Some(at) = authority.rfind('@') else { return self.0.clone() };
        let user = authority.get(..at).unwrap_or_default().split(':').next().unwrap_or_default();
        format!("{scheme}://{user}{}", rest.get(at..).unwrap_or_default())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Example {
        url: String,
        #[serde(default)]
        projection: crate::Projection,
        pool: Option<u32>,
    }

    fn settings(members: &[(&str, Value)]) -> Settings {
        let node = |line, value| Node { line, value };
        let members = members
            .iter()
            .enumerate()
            .map(|(i, (name, v))| ((*name).to_owned(), i + 3, node(i + 3, v.clone())))
            .collect();
        Settings::new("hub.yaml", "sinks.pg", node(2, Value::Map(members)))
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn a_mapping_becomes_a_struct() {
        let read: Example = settings(&[("url", text("u")), ("projection", text("table"))]).read().unwrap();
        assert_eq!(read, Example { url: "u".into(), projection: crate::Projection::Table, pool: None });
    }

    #[test]
    fn errors_name_file_line_field_and_the_nearest_name() {
        let read = |members: &[(&str, Value)]| settings(members).read::<Example>().unwrap_err().to_string();
        assert_eq!(
            read(&[("url", text("u")), ("projektion", text("table"))]),
            "hub.yaml:4: sinks.pg: unknown field `projektion`, did you mean `projection`?"
        );
        assert_eq!(
            read(&[("url", text("u")), ("projection", text("tabel"))]),
            "hub.yaml:4: sinks.pg.projection: unknown value `tabel`, did you mean `table`?"
        );
        assert_eq!(read(&[]), "hub.yaml:2: sinks.pg: the field `url` is missing");
        assert_eq!(
            read(&[("url", text("u")), ("pool", text("many"))]),
            "hub.yaml:4: sinks.pg.pool: invalid type: string \"many\", expected u32"
        );
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("postgres://me:hunter2@db:5432/hub?x=a@b");
        assert_eq!(format!("{secret:?}"), "…");
        assert_eq!(secret.without_password(), "postgres://me@db:5432/hub?x=a@b");
        assert_eq!(Secret::new("redis://h:1/").without_password(), "redis://h:1/");
    }
}
