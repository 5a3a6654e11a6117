//! Messages above a link's limit. gRPC wants RESOURCE_EXHAUSTED for them, the transport says
//! OUT_OF_RANGE, and nobody says what to do about it: here one place does.

use tonic::codegen::http::Response;
use tonic::{Code, Status};
use tower::util::MapResponseLayer;

/// Largest `cluster.limits.max_message_size` that can be configured, in bytes.
pub const MAX_CONFIGURABLE: usize = 256 << 20;

/// Largest message that a client has to take, in bytes: a task with an input and an output of the
/// largest size that can be configured, and what is around them.
pub const MAX_ANSWER: usize = 2 * MAX_CONFIGURABLE + (1 << 20);

/// What the recipient of a message can do about its size.
const REQUEST_HINT: &str = "raise cluster.limits.max_message_size (at most 256M) in the session manager's and the \
                            agents' configuration, or put the data into the object cache and send where it is";

/// As [`REQUEST_HINT`], for answers: clients have no limit that could be raised.
const ANSWER_HINT: &str =
    "put the data into the object cache and return where it is, or ask for fewer at a time";

/// How the transport begins to say that a message was too large, and goes on with both numbers.
const BEGINNINGS: [&str; 2] = [
    "Error, decoded message length too large: found ",
    "Error, encoded message length too large: found ",
];

/// Size and limit in bytes, if `status` is the transport's own about a message above the limit.
fn sizes(status: &Status) -> Option<(usize, usize)> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let rest = BEGINNINGS
        .iter()
        .find_map(|beginning| status.message().strip_prefix(beginning))?;
    let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    Some((found.parse().ok()?, limit.parse().ok()?))
}

fn exhausted((found, limit): (usize, usize), hint: &str) -> Status {
    Status::resource_exhausted(format!(
        "a message of {found} bytes is above the limit of {limit} bytes: {hint}"
    ))
}

/// The status that a client should show instead of `status`, if its own limit was exceeded.
#[must_use]
pub fn in_answer(status: &Status) -> Option<Status> {
    sizes(status).map(|sizes| exhausted(sizes, ANSWER_HINT))
}

/// The status that the recipient of a request should give instead of `status`, if its limit was
/// exceeded.
#[must_use]
pub fn in_request(status: &Status) -> Option<Status> {
    sizes(status).map(|sizes| exhausted(sizes, REQUEST_HINT))
}

/// Rewrites the statuses of a server about requests above its limit.
#[must_use]
pub fn layer<B: Default>() -> MapResponseLayer<fn(Response<B>) -> Response<B>> {
    MapResponseLayer::new(rewritten::<B>)
}

/// A refused call has its status in the head of the response; one that was begun does not.
fn rewritten<B: Default>(response: Response<B>) -> Response<B> {
    if !response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    match Status::from_header_map(response.headers())
        .as_ref()
        .and_then(in_request)
    {
        Some(status) => status.into_http(),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As tonic says it; should it change its words, the tests of the servers fail.
    const TOLD: &str = "Error, decoded message length too large: found 5000 bytes, the limit is: 4096 bytes";

    #[test]
    fn only_the_transports_own_words_are_replaced() {
        let better = in_request(&Status::out_of_range(TOLD)).expect("known");
        assert_eq!(better.code(), Code::ResourceExhausted);
        for part in ["5000 bytes", "4096 bytes", "max_message_size", "object cache"] {
            assert!(better.message().contains(part), "{better}");
        }
        assert!(in_answer(&Status::out_of_range(TOLD)).is_some());
        for other in [
            Status::out_of_range("page 7 of 3"),
            Status::internal(TOLD),
            Status::out_of_range(&TOLD[..60]),
        ] {
            assert!(in_request(&other).is_none(), "{other}");
        }
    }

    #[test]
    fn the_status_is_replaced_in_the_head_of_a_response_and_nothing_else_is_touched() {
        let refused: Response<String> = rewritten(Status::out_of_range(TOLD).into_http());
        let status = Status::from_header_map(refused.headers()).expect("there");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let mut answer = Response::new("body".to_owned());
        answer.headers_mut().insert("x", 1.into());
        let same = rewritten(answer);
        assert_eq!((same.body().as_str(), same.headers().len()), ("body", 1));
        let other: Response<String> = rewritten(Status::not_found("no such").into_http());
        let status = Status::from_header_map(other.headers()).expect("there");
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such"));
    }
}
