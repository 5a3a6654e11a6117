//! The applications that every cluster has: flmping, flmexec and flmrun.

use flame_core::ApplicationName;
use flame_core::id::IdError;
use flame_rpc::v1::{ApplicationSchema, ApplicationSpec};

/// Where the node finds its own installation; expanded by the node agent.
const BIN: &str = "${FLAME_HOME}/bin";

const FLMEXEC_INPUT: &str = r#"{
  "type": "object",
  "properties": {
    "language": {"type": "string", "description": "shell or python"},
    "runtime": {"type": "string", "description": "interpreter to use instead of the language's own"},
    "code": {"type": "string", "description": "the script"},
    "input": {"type": "array", "items": {"type": "integer"}, "description": "bytes for the script's stdin"}
  },
  "required": ["language", "code"]
}"#;

const FLMEXEC_OUTPUT: &str = r#"{"type": "string", "description": "what the script wrote to stdout"}"#;

/// The built-in applications as this version wants them.
///
/// # Errors
/// Never for the names below; a test proves it.
pub fn applications() -> Result<Vec<(ApplicationName, ApplicationSpec)>, IdError> {
    let flmping = ApplicationSpec {
        description: Some("Answers each task with the node's name and the time it took.".to_owned()),
        command: Some(format!("{BIN}/flmping-service")),
        url: Some(format!("file://{BIN}/flmping-service")),
        ..ApplicationSpec::default()
    };
    let flmexec = ApplicationSpec {
        description: Some("Runs shell and Python scripts.".to_owned()),
        command: Some(format!("{BIN}/flmexec-service")),
        schema: Some(ApplicationSchema {
            input: Some(FLMEXEC_INPUT.to_owned()),
            output: Some(FLMEXEC_OUTPUT.to_owned()),
            common_data: None,
        }),
        ..ApplicationSpec::default()
    };
    let arguments = [
        "run",
        "--python",
        "python${FLAME_PYTHON_VERSION}",
        "python",
        "-m",
        "flamepy.runner.runpy",
    ];
    let flmrun = ApplicationSpec {
        description: Some("Template of the applications that the Python Runner makes.".to_owned()),
        command: Some(format!("{BIN}/uv")),
        arguments: arguments.map(str::to_owned).to_vec(),
        installer: Some("python".to_owned()),
        ..ApplicationSpec::default()
    };
    [("flmping", flmping), ("flmexec", flmexec), ("flmrun", flmrun)]
        .into_iter()
        .map(|(name, spec)| Ok((ApplicationName::new(name)?, spec)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_three_and_their_schemas_are_valid() {
        let applications = applications().expect("valid names");
        let names: Vec<_> = applications.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["flmping", "flmexec", "flmrun"]);
        for (_, spec) in &applications {
            crate::frontend::check_specification(spec).expect("valid");
        }
    }
}
