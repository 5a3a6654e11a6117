//! Sessions, one after the other: the tasks of each are created and followed at the same time, and
//! looked at once more when all have ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flame_rs::batch::EndStream;
use flame_rs::{Client, Error, Session, SessionOptions, v1};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::Args;
use crate::check::{Ends, Report};

/// Runs sessions until the time is over, each to its end.
///
/// # Errors
/// A call failed beyond the client's patience. What is wrong with tasks is in the report.
pub(crate) async fn sessions(client: Client, args: Args) -> Result<Report, Error> {
    let end = Instant::now() + args.time;
    let mut report = Report::default();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(report);
        }
        let time = args.session_time.map_or(left, |time| time.min(left));
        report.add(session(&client, &args, time).await?);
    }
}

/// Runs one session, in which tasks are created for `time`.
async fn session(client: &Client, args: &Args, time: Duration) -> Result<Report, Error> {
    let mut report = Report {
        sessions: 1,
        ..Report::default()
    };
    let options = SessionOptions::new(args.application.as_str());
    let session = client.create_session(options).await?;
    let Some(stream) = session.watch_ends(0).await? else {
        report.violation("the server offers no stream of ends".to_owned());
        return Ok(report);
    };
    let size = usize::try_from(args.size).unwrap_or(usize::MAX);
    let room = Arc::new(Semaphore::new(
        usize::try_from(args.window.max(args.batch)).unwrap_or(Semaphore::MAX_PERMITS),
    ));
    let (sender, mut seen) = watch::channel(0);
    let ends = Ends::new(session.id(), size);
    let follower = tokio::spawn(follow(stream, ends, Arc::clone(&room), sender));

    create(&session, args, time, size, &room, &mut report).await?;
    let all = report.tasks;
    if timeout(args.patience, seen.wait_for(|seen| *seen >= all))
        .await
        .is_err()
    {
        let seen = *seen.borrow();
        report.violation(format!(
            "only {seen} of {all} tasks ended within {:?}",
            args.patience
        ));
    }
    // The records have to say the same as the stream did.
    let listed = listed(&session).await?;
    report.check_list(session.id(), size, &listed);
    // With the session ends the stream.
    session.close_within(args.patience).await?;
    report.add(follower.await.unwrap_or(Err(Error::Interrupted))?);
    Ok(report)
}

/// All records of the session's tasks. A list that is cut off begins anew.
async fn listed(session: &Session) -> Result<Vec<v1::Task>, Error> {
    loop {
        match session.list_tasks().await?.collect().await {
            Err(error) if error.is_lost() => {}
            result => return result,
        }
    }
}

/// Creates tasks until the time is over. Their ids are known before: nobody else creates any, so
/// every other id means that a call was carried out twice, or that its tasks were lost.
async fn create(
    session: &Session,
    args: &Args,
    time: Duration,
    size: usize,
    room: &Semaphore,
    report: &mut Report,
) -> Result<(), Error> {
    let began = Instant::now();
    let pause = Duration::from_secs(args.batch) / u32::try_from(args.rate).unwrap_or(u32::MAX);
    let mut pace = tokio::time::interval(pause.max(Duration::from_micros(1)));
    while began.elapsed() < time {
        pace.tick().await;
        match room
            .acquire_many(u32::try_from(args.batch).unwrap_or(u32::MAX))
            .await
        {
            Ok(places) => places.forget(),
            Err(_) => break, // nobody follows any more
        }
        let expected = report.tasks + 1..report.tasks + 1 + args.batch;
        let inputs = expected
            .clone()
            .map(|id| Some(flame_soak::input(session.id(), id, size)));
        let asked = Instant::now();
        let created = session.create_tasks(inputs.collect()).await?;
        report.call(asked.elapsed());
        if created.as_ref() != Some(&expected) {
            report.violation(format!(
                "the tasks {expected:?} were to be created, not {created:?}"
            ));
            break;
        }
        report.tasks += args.batch;
    }
    Ok(())
}

/// Follows the ends of all tasks until that of the session.
async fn follow(
    mut stream: EndStream,
    mut ends: Ends,
    room: Arc<Semaphore>,
    seen: watch::Sender<u64>,
) -> Result<Report, Error> {
    let mut report = Report::default();
    let outcome = loop {
        match stream.next().await {
            Ok(Some(end)) => ends.check(&end, &mut report),
            Ok(None) => break Ok(report),
            Err(error) => break Err(error),
        }
        room.add_permits(1);
        seen.send_replace(ends.seen());
    };
    room.close();
    outcome
}
