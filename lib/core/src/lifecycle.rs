//! Events in the life of a cluster that monitoring looks for in the journal. Each has a number that
//! never changes (`MESSAGE_ID`, see systemd.journal-fields(7)), so that they are found whatever
//! their text says. `docs/observability.md` has the same table for people.

use std::fmt;

/// How bad an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// A thing done that comes with every session, for who looks closely: at a thousand sessions a
    /// second the journal would drop lines.
    Debug,
    /// A thing done.
    Info,
    /// Something went wrong and is mended without help.
    Warning,
    /// Somebody has to look after it.
    Error,
}

/// The number of an event, shown as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId(pub u128);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

macro_rules! lifecycle_events {
    ($($(#[doc = $doc:literal])+ $name:ident = $id:literal, $severity:ident;)+) => {
        /// An event with a number of its own. A number is never given to another event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum LifecycleEvent {
            $($(#[doc = $doc])+ $name,)+
        }

        impl LifecycleEvent {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its number.
            #[must_use]
            pub const fn message_id(self) -> MessageId {
                match self {
                    $(Self::$name => MessageId($id),)+
                }
            }

            /// How bad it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity,)+
                }
            }
        }
    };
}

lifecycle_events! {
    /// A daemon serves, or an agent offers its node.
    DaemonReady = 0x26ce_70c8_2787_4562_b824_38fb_84e3_bfdf, Info;
    /// A daemon was asked to stop.
    DaemonStopping = 0x795c_4201_4762_4ce2_8f0d_0f15_20e9_29ef, Info;
    /// A session manager did not run for a while, so it has missed what its nodes said.
    DaemonStalled = 0xaedf_9dd7_0ec0_4410_8143_1e02_2cbe_1e25, Warning;
    /// State cannot be stored: nothing new is taken.
    StoreFailed = 0x7ae1_a6cc_545d_41c7_816e_41f2_373a_6f0a, Error;
    /// State can be stored again.
    StoreRecovered = 0x1184_db50_1f77_44a3_b7fc_3e55_99c5_9e48, Info;
    /// A session was made.
    SessionCreated = 0x7baa_c5e0_119b_4334_9c9d_06c6_e8b0_0e39, Info;
    /// A session was closed.
    SessionClosed = 0xd90c_96bc_dfc3_4992_a739_0d26_c04e_81a3, Info;
    /// A closed session was deleted by request.
    SessionDeleted = 0xff70_389d_2e29_4869_9715_7fd9_7ceb_b206, Info;
    /// A session gets no new executors, because binding failed too often.
    SessionPaused = 0x90ac_1ca2_3194_40b6_b63c_1bc2_a949_1533, Warning;
    /// An executor serves its session.
    ExecutorBound = 0x3281_885d_10e6_4f9c_aea9_bc89_955f_4770, Debug;
    /// An executor could not be bound.
    ExecutorBindFailed = 0x29df_321f_f2ec_4a45_b59f_8505_97a5_aabd, Warning;
    /// The service of an executor died.
    ExecutorDied = 0x8823_94f4_eaf5_4c79_86c1_db65_bfe8_b435, Warning;
    /// An executor was released and is gone.
    ExecutorReleased = 0x9060_1ce2_6307_4cf3_8e86_6757_d705_574c, Debug;
    /// An executor went on under a session manager that was started anew.
    ExecutorAdopted = 0x913c_561d_6da3_4533_a57f_8757_689e_a24f, Info;
    /// A node's agent has connected.
    NodeRegistered = 0xe649_2a1f_a471_4431_85c1_d232_6454_2871, Info;
    /// The link to a node's agent ended.
    NodeDisconnected = 0x1139_60ed_043d_40f5_a03e_3e67_0a56_d4a4, Warning;
    /// A node was silent for a while and gets no new work.
    NodeSuspect = 0x3997_352a_3791_4440_943e_bc09_110d_064c, Warning;
    /// A suspect or lost node is heard of again.
    NodeRecovered = 0x54d0_4971_2053_4df2_9123_c1b9_feaf_3fde, Info;
    /// A node was silent for so long that its tasks were given to others.
    NodeLost = 0x9aef_e7da_d9a5_4491_a5ac_7aa9_f909_93bd, Warning;
    /// A node finishes what it has and gets no new work.
    NodeDraining = 0x88b7_1197_c92e_4762_beb1_6bff_4209_107c, Info;
    /// A node's agent stopped in an orderly way.
    NodeLeft = 0x0e8f_5f1a_515b_42d6_a500_b7b4_1100_ad83, Info;
    /// A node that was gone for long is no longer listed.
    NodeForgotten = 0xb466_a438_c3a3_4594_b7e5_ecc1_4c25_e770, Info;
    /// A node gets nothing new, because somebody said so.
    NodeCordoned = 0x99f6_9e74_e2a1_4068_9eaf_722e_c0da_ef29, Info;
    /// A node is in service again.
    NodeUncordoned = 0xdb4c_ee6e_0e9f_4037_93c6_819e_ee6d_d0bb, Info;
    /// Nothing runs any more on a node that is drained.
    NodeDrained = 0x76c8_15b9_db76_4921_b522_84e1_1c12_e90f, Info;
    /// The link of a node comes and goes, so it gets no new executors for a while.
    NodeUnstable = 0x65ab_a2c0_85df_48ce_87e4_7790_381e_e6bb, Warning;
    /// The link of such a node has held for a while.
    NodeStable = 0x55b8_1089_30f7_4240_b010_61b7_ebd9_7b2e, Info;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_events_share_a_number_and_each_is_a_random_uuid() {
        let ids: HashSet<_> = LifecycleEvent::ALL
            .iter()
            .map(|event| event.message_id())
            .collect();
        assert_eq!(ids.len(), LifecycleEvent::ALL.len());
        for event in LifecycleEvent::ALL {
            let text = event.message_id().to_string();
            assert_eq!(text.len(), 32, "{event:?}");
            assert_eq!(
                &text[12..13],
                "4",
                "{event:?}: a version 4 UUID, as systemd-id128 makes them"
            );
        }
    }

    #[test]
    fn the_documentation_has_exactly_these_events() {
        let page = include_str!("../../../docs/observability.md");
        let id = |line: &str| {
            let (id, rest) = line.strip_prefix("| `")?.split_once('`')?;
            let level = rest.split('|').nth(2)?.trim();
            (id.len() == 32).then(|| (id.to_owned(), level.to_owned()))
        };
        let listed: Vec<_> = page.lines().filter_map(id).collect();
        let known: Vec<_> = LifecycleEvent::ALL
            .iter()
            .map(|event| {
                let level = format!("{:?}", event.severity()).to_lowercase();
                (event.message_id().to_string(), level)
            })
            .collect();
        assert_eq!(
            listed, known,
            "docs/observability.md, in the order of the declaration"
        );
    }
}
