//! YAML into settings: every value with its line, and `${VAR}` and `${VAR:-default}` filled in from the environment.

use primal_core::settings::{Node, Value};
use primal_core::{Settings, SettingsError};
use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, ScalarStyle, YamlData};
use saphyr_parser::{Event, Parser};

/// The deepest nesting that is read; a tree is walked by recursion.
const MAX_DEPTH: usize = 64;
const FOREIGN: &str = "tags and aliases are not understood here";

/// Reads a document. `variables` looks up the environment.
pub(crate) fn parse(
    file: &str,
    text: &str,
    variables: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, SettingsError> {
    let error = |line: usize, message: String| SettingsError {
        file: file.to_owned(),
        line: Some(line),
        path: String::new(),
        message,
    };
    check_shape(text).map_err(|(line, message)| error(line, message))?;
    let documents = MarkedYaml::load_from_str(text)
        .map_err(|e| error(e.marker().line(), format!("not YAML: {} (column {})", e.info(), e.marker().col() + 1)))?;
    let node = match documents.as_slice() {
        [] => Node { line: 1, value: Value::Map(Vec::new()) },
        [document] => convert(document, variables).map_err(|(line, message)| error(line, message))?,
        [_, second, ..] => return Err(error(second.span.start.line(), "one document is expected, not several".into())),
    };
    Ok(Settings::new(file, "", node))
}

/// Refuses what would make the tree too deep or, by aliases of aliases, too large. Other mistakes are left to the loader.
fn check_shape(text: &str) -> Result<(), (usize, String)> {
    let mut depth = 0usize;
    for event in Parser::new_from_str(text) {
        match event {
            Ok((Event::SequenceStart(..) | Event::MappingStart(..), span)) if depth == MAX_DEPTH => {
                return Err((span.start.line(), format!("nested deeper than {MAX_DEPTH} levels")));
            }
            Ok((Event::Alias(_), span)) => return Err((span.start.line(), FOREIGN.to_owned())),
            Ok((Event::SequenceStart(..) | Event::MappingStart(..), _)) => depth += 1,
            Ok((Event::SequenceEnd | Event::MappingEnd, _)) => depth = depth.saturating_sub(1),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Ok(())
}

fn convert(yaml: &MarkedYaml<'_>, variables: &dyn Fn(&str) -> Option<String>) -> Result<Node, (usize, String)> {
    let line = yaml.span.start.line();
    let value = match &yaml.data {
        YamlData::Value(scalar) => scalar_value(scalar, line, variables)?,
        YamlData::Sequence(items) => {
            Value::List(items.iter().map(|item| convert(item, variables)).collect::<Result<_, _>>()?)
        }
        YamlData::Mapping(members) => {
            let mut converted = Vec::with_capacity(members.len());
            for (key, member) in members {
                let YamlData::Value(Scalar::String(name)) = &key.data else {
                    return Err((key.span.start.line(), "a name is expected here".to_owned()));
                };
                converted.push((name.to_string(), key.span.start.line(), convert(member, variables)?));
            }
            Value::Map(converted)
        }
        _ => return Err((line, FOREIGN.to_owned())),
    };
    Ok(Node { line, value })
}

fn scalar_value(
    scalar: &Scalar<'_>,
    line: usize,
    variables: &dyn Fn(&str) -> Option<String>,
) -> Result<Value, (usize, String)> {
    Ok(match scalar {
        Scalar::Null => Value::Null,
        Scalar::Boolean(b) => Value::Bool(*b),
        Scalar::Integer(n) => Value::Int(*n),
        Scalar::FloatingPoint(n) => Value::Float(n.into_inner()),
        Scalar::String(text) if !text.contains("${") => Value::Text(text.to_string()),
        Scalar::String(text) => {
            let filled = interpolate(text, variables).map_err(|message| (line, message))?;
            // A value that is one variable and nothing else has the type that its text would have in the file.
            let whole = text.starts_with("${") && text.find('}') == Some(text.len() - 1);
            let typed = Scalar::parse_from_cow_and_metadata(filled.as_str().into(), ScalarStyle::Plain, None);
            match typed.filter(|_| whole) {
                Some(Scalar::Boolean(b)) => Value::Bool(b),
                Some(Scalar::Integer(n)) => Value::Int(n),
                Some(Scalar::FloatingPoint(n)) => Value::Float(n.into_inner()),
                _ => Value::Text(filled),
            }
        }
    })
}

fn interpolate(text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        filled.push_str(before);
        let (inside, behind) = after.split_once('}').ok_or_else(|| format!("`${{` without `}}` in {text:?}"))?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (inside, None),
        };
        let value = variables(name).filter(|value| !value.is_empty() || default.is_none()).or(default);
        filled.push_str(&value.ok_or_else(|| {
            format!("the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        })?);
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("9092".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in() {
        let fill = |text: &str| interpolate(text, &variables);
        assert_eq!(fill("a:${PORT}/${X:-y}${EMPTY:-z}").unwrap(), "a:9092/yz");
        assert!(fill("${X}").unwrap_err().contains("variable X is not set"));
        assert!(fill("${X").is_err());
    }

    #[test]
    fn a_mistake_in_the_text_names_its_line() {
        let error = parse("hub.yaml", "log: {a: 1\nb: [", &variables).unwrap_err();
        assert!(error.to_string().starts_with("hub.yaml:2"), "{error}");
        let error = parse("hub.yaml", "a: 1\na: 2\n", &variables).unwrap_err();
        assert!(error.to_string().contains("hub.yaml:2: not YAML: duplicated key"), "{error}");
    }

    #[test]
    fn aliases_cannot_multiply() {
        let mut laughs = "a0: &a0 [x, x]\n".to_owned();
        (1..40).for_each(|i| laughs += &format!("a{i}: &a{i} [*a{0}, *a{0}]\n", i - 1));
        let error = parse("hub.yaml", &laughs, &variables).unwrap_err();
        assert_eq!(error.to_string(), "hub.yaml:2: tags and aliases are not understood here");
    }

    #[test]
    fn deep_nesting_is_refused_and_not_followed() {
        for deep in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), "? ".repeat(100_000)] {
            let error = parse("hub.yaml", &deep, &variables).unwrap_err();
            assert!(error.to_string().starts_with("hub.yaml:1"), "{error}");
        }
    }
}
