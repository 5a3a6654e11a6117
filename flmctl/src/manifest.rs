//! Applications as YAML files: `metadata.name` and `spec` with the fields of the wire's ApplicationSpec.

use std::collections::BTreeMap;

use flame_core::config::{ConfigError, from_yaml};
use flame_core::state::Shim;
use flame_rpc::v1;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::format;

/// All keys, for the error that names the nearest one.
const KEYS: &[&str] = &[
    "metadata",
    "metadata.name",
    "spec",
    "spec.shim",
    "spec.description",
    "spec.labels",
    "spec.image",
    "spec.command",
    "spec.arguments",
    "spec.environments",
    "spec.working_directory",
    "spec.max_instances",
    "spec.delay_release",
    "spec.reusable",
    "spec.schema",
    "spec.schema.input",
    "spec.schema.output",
    "spec.schema.common_data",
    "spec.url",
    "spec.installer",
];

/// An application as a file describes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    /// Name of the application.
    pub(crate) name: String,
    /// The rest, as it is sent.
    pub(crate) spec: v1::ApplicationSpec,
}

/// Reads all documents of `text`. The error is a sentence that names the key or the line.
pub(crate) fn parse(text: &str) -> Result<Vec<Manifest>, String> {
    let documents = documents(text);
    if documents.is_empty() {
        return Err("there is no application in it; want metadata.name and spec".to_owned());
    }
    let count = documents.len();
    let mut manifests = Vec::with_capacity(count);
    for (at, document) in documents.iter().enumerate() {
        let place = if count > 1 {
            format!("document {}: ", at + 1)
        } else {
            String::new()
        };
        let raw: RawManifest =
            from_yaml(document, KEYS).map_err(|error: ConfigError| format!("{place}{error}"))?;
        manifests.push(raw.check().map_err(|error| format!("{place}{error}"))?);
    }
    Ok(manifests)
}

/// Splits at lines that start with `---`, which YAML allows nowhere else. Each part starts with as
/// many empty lines as there were before it, so that line numbers in errors stay right.
fn documents(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for (number, line) in text.lines().enumerate() {
        let marker = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if let Some(rest) = marker {
            let mut part = "\n".repeat(number);
            part.push_str(rest);
            parts.push(part);
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
        }
        if let Some(part) = parts.last_mut() {
            part.push('\n');
        }
    }
    let has_content = |line: &str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    };
    parts.retain(|part| part.lines().any(has_content));
    parts
}

#[derive(Deserialize)]
struct RawManifest {
    metadata: RawMetadata,
    spec: RawSpec,
}

#[derive(Deserialize)]
struct RawMetadata {
    name: String,
}

#[derive(Deserialize)]
struct RawSpec {
    #[serde(default, deserialize_with = "shim")]
    shim: Shim,
    description: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
    image: Option<String>,
    command: Option<String>,
    #[serde(default, deserialize_with = "scalars")]
    arguments: Vec<String>,
    #[serde(default, deserialize_with = "scalar_map")]
    environments: BTreeMap<String, String>,
    working_directory: Option<String>,
    max_instances: Option<u32>,
    #[serde(default, deserialize_with = "delay")]
    delay_release: Option<i64>,
    #[serde(default)]
    reusable: bool,
    schema: Option<RawSchema>,
    url: Option<String>,
    installer: Option<String>,
}

#[derive(Deserialize)]
struct RawSchema {
    #[serde(default, deserialize_with = "schema")]
    input: Option<String>,
    #[serde(default, deserialize_with = "schema")]
    output: Option<String>,
    #[serde(default, deserialize_with = "schema")]
    common_data: Option<String>,
}

impl RawManifest {
    fn check(self) -> Result<Manifest, String> {
        flame_core::id::validate("metadata.name", &self.metadata.name).map_err(|error| error.to_string())?;
        let spec = self.spec;
        if let Some(directory) = &spec.working_directory
            && !directory.is_empty()
            && !directory.starts_with('/')
        {
            return Err(format!(
                "spec.working_directory: {directory:?} is not absolute; start it with /"
            ));
        }
        let environment = |(name, value)| v1::Environment { name, value };
        Ok(Manifest {
            name: self.metadata.name,
            spec: v1::ApplicationSpec {
                shim: v1::Shim::from(spec.shim).into(),
                description: spec.description,
                labels: spec.labels,
                image: spec.image,
                command: spec.command,
                arguments: spec.arguments,
                environments: spec.environments.into_iter().map(environment).collect(),
                working_directory: spec.working_directory,
                max_instances: spec.max_instances,
                delay_release: spec.delay_release,
                reusable: spec.reusable,
                schema: spec.schema.map(|schema| v1::ApplicationSchema {
                    input: schema.input,
                    output: schema.output,
                    common_data: schema.common_data,
                }),
                url: spec.url,
                installer: spec.installer,
            },
        })
    }
}

fn shim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Shim, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.to_ascii_lowercase().as_str() {
        "host" => Ok(Shim::Host),
        "wasm" => Ok(Shim::Wasm),
        _ => Err(de::Error::custom(format!(
            "spec.shim: {text:?} is neither Host nor Wasm"
        ))),
    }
}

/// Seconds as a number, or text with a unit.
fn delay<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let text = match Value::deserialize(deserializer)? {
        Value::Null => return Ok(None),
        other => plain(&other).unwrap_or_else(|| other.to_string()),
    };
    let read = format::seconds(&text);
    read.map(Some)
        .map_err(|error| de::Error::custom(format!("spec.delay_release: {error}")))
}

/// A JSON Schema as text, or written out in YAML.
fn schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

/// `[run, 1, true]`: programs get text anyway, so numbers need no quotes.
fn scalars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let values = Option::<Vec<Value>>::deserialize(deserializer)?.unwrap_or_default();
    let wrong = |value: &Value| de::Error::custom(format!("spec.arguments: {value} is no text"));
    values
        .iter()
        .map(|value| plain(value).ok_or_else(|| wrong(value)))
        .collect()
}

fn scalar_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let values = Option::<BTreeMap<String, Value>>::deserialize(deserializer)?.unwrap_or_default();
    values
        .into_iter()
        .map(|(key, value)| match plain(&value) {
            Some(text) => Ok((key, text)),
            None => Err(de::Error::custom(format!(
                "spec.environments.{key}: {value} is no text"
            ))),
        })
        .collect()
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
metadata:
  name: counter
spec:
  shim: host
  description: Counts words
  labels: [cpu, fast]
  image: registry/counter
  command: /usr/bin/counter
  arguments: [--depth, 3, "x y"]
  environments:
    PORT: 8080
    VERBOSE: true
    NAME: "007"
  working_directory: /var/tmp
  max_instances: 4
  delay_release: 5m
  reusable: true
  schema:
    input: '{"type": "string"}'
    output: {type: integer}
  url: file:///opt/counter.tar.gz
  installer: python
"#;

    #[test]
    fn every_field_reaches_the_wire() {
        let manifests = parse(FULL).expect("valid");
        let [Manifest { name, spec }] = manifests.as_slice() else {
            panic!("one: {manifests:?}")
        };
        assert_eq!(name, "counter");
        let env = |name: &str, value: &str| v1::Environment {
            name: name.into(),
            value: value.into(),
        };
        let expected = v1::ApplicationSpec {
            shim: v1::Shim::Host.into(),
            description: Some("Counts words".into()),
            labels: vec!["cpu".into(), "fast".into()],
            image: Some("registry/counter".into()),
            command: Some("/usr/bin/counter".into()),
            arguments: vec!["--depth".into(), "3".into(), "x y".into()],
            environments: vec![env("NAME", "007"), env("PORT", "8080"), env("VERBOSE", "true")],
            working_directory: Some("/var/tmp".into()),
            max_instances: Some(4),
            delay_release: Some(300),
            reusable: true,
            schema: Some(v1::ApplicationSchema {
                input: Some(r#"{"type": "string"}"#.into()),
                output: Some(r#"{"type":"integer"}"#.into()),
                common_data: None,
            }),
            url: Some("file:///opt/counter.tar.gz".into()),
            installer: Some("python".into()),
        };
        assert_eq!(*spec, expected);
    }

    #[test]
    fn a_file_may_have_several_documents() {
        let two = "---\nmetadata: {name: a}\nspec: {shim: Wasm}\n\
                   --- # next\nmetadata: {name: b}\nspec: {delay_release: 60}\n---\n";
        let manifests = parse(two).expect("valid");
        let names: Vec<&str> = manifests.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(manifests[0].spec.shim(), v1::Shim::Wasm);
        assert_eq!(manifests[1].spec.shim(), v1::Shim::Host, "the default");
        assert_eq!(manifests[1].spec.delay_release, Some(60));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "no application"),
            ("# nothing\n", "no application"),
            ("metadata: {name: a}", "spec"),
            ("spec: {}", "metadata"),
            ("metadata: {}\nspec: {}", "name"),
            (
                "metadata: {name: a}\nspec: {comand: x}",
                "unknown key \"spec.comand\"; did you mean \"spec.command\"?",
            ),
            (
                "metadata: {name: a}\nspec: {schema: {ouptut: x}}",
                "unknown key \"spec.schema.ouptut\"; did you mean \"spec.schema.output\"?",
            ),
            (
                "metadata: {name: ../x}\nspec: {}",
                "metadata.name \"../x\" is not valid",
            ),
            (
                "metadata: {name: a}\nspec: {shim: docker}",
                "neither Host nor Wasm",
            ),
            ("metadata: {name: a}\nspec: {max_instances: many}", "many"),
            (
                "metadata: {name: a}\nspec: {delay_release: soon}",
                "\"soon\" is no time",
            ),
            ("metadata: {name: a}\nspec: {delay_release: 1.5}", "is no time"),
            ("metadata: {name: a}\nspec: {environments: [A=1]}", "spec"),
            (
                "metadata: {name: a}\nspec: {environments: {A: [1]}}",
                "spec.environments.A: [1] is no text",
            ),
            (
                "metadata: {name: a}\nspec: {arguments: [{a: b}]}",
                "spec.arguments",
            ),
            (
                "metadata: {name: a}\nspec: {working_directory: tmp}",
                "not absolute",
            ),
            (
                "metadata: {name: a}\nspec: {}\n---\nmetadata: {name: b}\nspec: {x: 1}",
                "document 2: unknown key",
            ),
            ("metadata: [", ""),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}\n=> {error}");
        }
    }

    #[test]
    fn errors_in_later_documents_have_the_line_of_the_file() {
        let error =
            parse("metadata: {name: a}\nspec: {}\n---\nmetadata: {name: b}\nspec: {max_instances: x}\n")
                .expect_err("no number");
        assert!(error.contains("line 5"), "{error}");
    }
}
