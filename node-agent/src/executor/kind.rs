//! What a service process was started for: only an order for exactly the same may have it later.

use std::time::Duration;

use flame_rpc::node::StartExecutor;
use flame_rpc::v1::{ApplicationSpec, ResourceRequirement};

/// All that makes two processes of a reusable application alike.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kind {
    application: String,
    revision: String,
    spec: ApplicationSpec,
    resreq: Option<ResourceRequirement>,
}

impl Kind {
    /// The kind of process that `order` asks for. None if it must not serve another session.
    pub(super) fn of(order: &StartExecutor) -> Option<Self> {
        let spec = order.spec.as_ref().filter(|spec| spec.reusable)?;
        Some(Self {
            application: order.application.clone(),
            revision: order.application_revision.clone(),
            spec: spec.clone(),
            resreq: order.resreq,
        })
    }

    /// Whether `order` shows that the application has changed, so that no further order can be for
    /// this kind.
    pub(super) fn is_outdated_by(&self, order: &StartExecutor) -> bool {
        self.application == order.application
            && (self.revision != order.application_revision || Some(&self.spec) != order.spec.as_ref())
    }

    /// How long a process waits for another session.
    pub(super) fn keep(&self) -> Duration {
        let seconds = self.spec.delay_release.unwrap_or(0);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use flame_rpc::v1::Environment;

    use super::*;

    fn order() -> StartExecutor {
        StartExecutor {
            executor_id: "e1".to_owned(),
            session_id: "s1".to_owned(),
            application: "app".to_owned(),
            application_revision: "1-1".to_owned(),
            resreq: Some(ResourceRequirement {
                cpu: 1,
                ..ResourceRequirement::default()
            }),
            spec: Some(ApplicationSpec {
                command: Some("/bin/app".to_owned()),
                delay_release: Some(7),
                reusable: true,
                ..ApplicationSpec::default()
            }),
            ..StartExecutor::default()
        }
    }

    fn changed(change: impl FnOnce(&mut StartExecutor, &mut ApplicationSpec)) -> StartExecutor {
        let mut order = order();
        let mut spec = order.spec.take().expect("set");
        change(&mut order, &mut spec);
        order.spec = Some(spec);
        order
    }

    #[test]
    fn the_session_and_the_executor_make_no_difference() {
        let kind = Kind::of(&order()).expect("reusable");
        assert_eq!(kind.keep(), Duration::from_secs(7));
        let other = changed(|order, _| {
            order.executor_id = "e2".to_owned();
            order.session_id = "s2".to_owned();
            order.session_number = 9;
            order.common_data = Some("other".into());
        });
        assert_eq!(Kind::of(&other), Some(kind.clone()));
        assert!(!kind.is_outdated_by(&other));
    }

    #[test]
    fn whatever_else_differs_is_another_kind() {
        type Change = fn(&mut StartExecutor, &mut ApplicationSpec);
        let kind = Kind::of(&order()).expect("reusable");
        let cases: [(&str, Change, bool); 8] = [
            (
                "application",
                |order, _| order.application = "b".to_owned(),
                false,
            ),
            (
                "resources",
                |order, _| order.resreq = Some(ResourceRequirement::default()),
                false,
            ),
            (
                "revision",
                |order, _| order.application_revision = "1-2".to_owned(),
                true,
            ),
            ("command", |_, spec| spec.command = None, true),
            ("arguments", |_, spec| spec.arguments.push("-v".to_owned()), true),
            (
                "environment",
                |_, spec| spec.environments.push(Environment::default()),
                true,
            ),
            (
                "directory",
                |_, spec| spec.working_directory = Some("/".to_owned()),
                true,
            ),
            ("time", |_, spec| spec.delay_release = None, true),
        ];
        for (what, change, outdated) in cases {
            let other = changed(change);
            assert_ne!(Kind::of(&other), Some(kind.clone()), "{what}");
            assert_eq!(kind.is_outdated_by(&other), outdated, "{what}");
        }
    }

    #[test]
    fn processes_of_other_applications_have_no_kind() {
        let plain = changed(|_, spec| spec.reusable = false);
        assert_eq!(Kind::of(&plain), None);
        assert!(Kind::of(&order()).expect("reusable").is_outdated_by(&plain));
        let without = StartExecutor {
            spec: None,
            ..order()
        };
        assert_eq!(Kind::of(&without), None);
    }

    #[test]
    fn a_time_that_makes_no_sense_is_none() {
        for seconds in [None, Some(0), Some(-5)] {
            let kind = Kind::of(&changed(|_, spec| spec.delay_release = seconds)).expect("reusable");
            assert_eq!(kind.keep(), Duration::ZERO);
        }
    }
}
