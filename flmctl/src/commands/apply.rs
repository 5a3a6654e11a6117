//! `flmctl register`, `update` and `unregister`: the registry of applications.

use std::path::Path;

use flame_rpc::v1;
use serde_json::json;

use super::read_input;
use crate::cli::{
    ApplyApplication, ApplyArgs, ApplyNoun, ShimArg, SpecFlags, UnregisterArgs, UnregisterNoun,
};
use crate::client::Client;
use crate::error::CtlError;
use crate::manifest::{self, Manifest};
use crate::printer::Printer;

/// Where an application's specification comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The documents of a YAML file.
    File(Vec<Manifest>),
    /// A name and flags.
    Flags(String, Box<SpecFlags>),
}

impl Source {
    /// Brings `register -f FILE` and `register application ...` together, and reads the file.
    pub(crate) async fn new(args: ApplyArgs) -> Result<Self, CtlError> {
        let usage = |message: &str| CtlError::Usage(message.to_owned());
        let application = args.noun.map(|ApplyNoun::Application(application)| *application);
        let ApplyApplication { name, file, spec } = application.unwrap_or_default();
        match (args.file, file, name) {
            (Some(_), _, Some(_)) | (Some(_), Some(_), _) => {
                Err(usage("give either --file or a name with flags"))
            }
            (Some(file), None, None) | (None, Some(file), _) => Ok(Self::File(read(&file).await?)),
            (None, None, Some(name)) => Ok(Self::Flags(name, Box::new(spec))),
            (None, None, None) => Err(usage(
                "say which application: --file FILE, or application NAME with flags",
            )),
        }
    }
}

/// Registers what `source` describes.
pub(crate) async fn register(client: &Client, printer: &Printer, source: Source) -> Result<(), CtlError> {
    let manifests = match source {
        Source::File(manifests) => manifests,
        Source::Flags(name, flags) => {
            let mut spec = v1::ApplicationSpec::default();
            flags.put_into(&mut spec);
            vec![Manifest { name, spec }]
        }
    };
    for Manifest { name, spec } in manifests {
        client.register(&name, spec).await?;
        done(printer, &name, "registered")?;
    }
    Ok(())
}

/// Updates what `source` describes: a file is the whole application, flags change what they name.
pub(crate) async fn update(client: &Client, printer: &Printer, source: Source) -> Result<(), CtlError> {
    let manifests = match source {
        Source::File(manifests) => manifests,
        Source::Flags(name, flags) => {
            let mut spec = client.application(&name).await?.spec.unwrap_or_default();
            flags.put_into(&mut spec);
            vec![Manifest { name, spec }]
        }
    };
    for Manifest { name, spec } in manifests {
        client.update(&name, spec).await?;
        done(printer, &name, "updated")?;
    }
    Ok(())
}

/// The names, from both styles of the command line.
pub(crate) fn names(args: UnregisterArgs) -> Result<Vec<String>, CtlError> {
    let mut names = args.applications;
    if let Some(UnregisterNoun::Application { names: named }) = args.noun {
        names.extend(named);
    }
    if names.is_empty() {
        return Err(CtlError::Usage(
            "say which application: application NAME...".to_owned(),
        ));
    }
    Ok(names)
}

/// Unregisters in order and stops at the first that cannot be.
pub(crate) async fn unregister(client: &Client, printer: &Printer, names: &[String]) -> Result<(), CtlError> {
    for name in names {
        client.unregister(name).await?;
        done(printer, name, "unregistered")?;
    }
    Ok(())
}

/// One line per application, so that what was done is known even if the next one fails.
fn done(printer: &Printer, name: &str, what: &str) -> Result<(), CtlError> {
    if printer.is_json() {
        printer.json_line(&json!({ "application": name, "result": what }))
    } else {
        printer.text(&format!("application {name} {what}\n"))
    }
}

async fn read(file: &Path) -> Result<Vec<Manifest>, CtlError> {
    let name = if file.as_os_str() == "-" {
        "standard input".into()
    } else {
        file.display().to_string()
    };
    let wrong = |message: String| CtlError::Manifest {
        file: name.clone(),
        message,
    };
    let data = read_input("read the application file", file).await?;
    let text = std::str::from_utf8(&data).map_err(|_| wrong("it is not UTF-8 text".to_owned()))?;
    manifest::parse(text).map_err(wrong)
}

impl SpecFlags {
    /// Sets what was given; a list replaces the whole list.
    fn put_into(self, spec: &mut v1::ApplicationSpec) {
        if let Some(shim) = self.shim {
            let shim = match shim {
                ShimArg::Host => v1::Shim::Host,
                ShimArg::Wasm => v1::Shim::Wasm,
            };
            spec.set_shim(shim);
        }
        set(&mut spec.description, self.description);
        set(&mut spec.image, self.image);
        set(&mut spec.command, self.command);
        set(&mut spec.working_directory, self.working_directory);
        set(&mut spec.max_instances, self.max_instances);
        set(&mut spec.delay_release, self.delay_release);
        if let Some(reusable) = self.reusable {
            spec.reusable = reusable;
        }
        set(&mut spec.url, self.url);
        set(&mut spec.installer, self.installer);
        if !self.labels.is_empty() {
            spec.labels = self.labels;
        }
        if !self.arguments.is_empty() {
            spec.arguments = self.arguments;
        }
        if !self.environments.is_empty() {
            let environment = |(name, value)| v1::Environment { name, value };
            spec.environments = self.environments.into_iter().map(environment).collect();
        }
    }
}

fn set<T>(field: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_change_only_what_they_name() {
        let mut spec = v1::ApplicationSpec {
            command: Some("/old".into()),
            arguments: vec!["a".into()],
            description: Some("kept".into()),
            ..Default::default()
        };
        let flags = SpecFlags {
            command: Some("/new".into()),
            shim: Some(ShimArg::Wasm),
            environments: vec![("K".into(), "V".into())],
            ..Default::default()
        };
        flags.put_into(&mut spec);
        assert_eq!(spec.command.as_deref(), Some("/new"));
        assert_eq!(spec.description.as_deref(), Some("kept"));
        assert_eq!(spec.arguments, ["a"]);
        assert_eq!(spec.shim(), v1::Shim::Wasm);
        assert_eq!(
            spec.environments,
            [v1::Environment {
                name: "K".into(),
                value: "V".into()
            }]
        );
    }
}
