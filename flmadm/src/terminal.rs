//! What the terminal behind the standard error can show.

use std::io::IsTerminal;

/// Whether what was drawn on the standard error can be drawn over, as by a progress bar.
pub(crate) fn can_draw() -> bool {
    let kind = std::env::var("TERM").ok();
    is_capable(std::io::stderr().is_terminal(), kind.as_deref())
}

fn is_capable(terminal: bool, kind: Option<&str>) -> bool {
    terminal && !matches!(kind, None | Some("" | "dumb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_needs_a_terminal_that_can_do_more_than_print() {
        for (terminal, kind, capable) in [
            (true, Some("xterm-256color"), true),
            (true, Some("dumb"), false),
            (true, None, false),
            (false, Some("xterm"), false),
        ] {
            assert_eq!(is_capable(terminal, kind), capable, "{terminal} {kind:?}");
        }
    }
}
