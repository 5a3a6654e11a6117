//! How many lines the log gets.

use super::*;

/// Defect 42: the journal drops lines beyond its rate.
#[test]
fn a_session_that_goes_well_leaves_two_lines() {
    let mut bed = Bed::new();
    let link = bed.node("n", 2);
    bed.notices.clear();
    bed.session("s", spec("app"));
    bed.tasks("s", 4);
    bed.bind_all(link);
    while !bed.handed.is_empty() {
        bed.finish_handed(link);
    }
    bed.run(|core, now, fx| core.close_session("s", now, fx))
        .expect("closed");
    bed.release_all(link);
    let (lines, details): (Vec<_>, Vec<_>) = bed
        .notices
        .iter()
        .partition(|notice| notice.level != NoticeLevel::Debug);
    let events: Vec<_> = lines.iter().filter_map(|notice| notice.event).collect();
    assert_eq!(
        events,
        [LifecycleEvent::SessionCreated, LifecycleEvent::SessionClosed]
    );
    assert_eq!(details.len(), 4, "two executors came and went");
}
