//! Work on many files at once: most of the time of a command that finds nothing to change is for their hashes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::failure::{Failure, Outcome};

/// What `work` gives for each of `items`, in their order, by as many threads as the machine has processors.
///
/// # Errors
/// The first in the order of `items`.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Outcome<R> + Sync) -> Outcome<Vec<R>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let (give, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            let (give, next, work) = (give.clone(), &next, &work);
            scope.spawn(move || {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    let _we_wait_for_it = give.send((index, work(item)));
                }
            });
        }
    });
    drop(give);
    let mut all: Vec<(usize, Outcome<R>)> = results.into_iter().collect();
    all.sort_by_key(|(index, _)| *index);
    if all.len() < items.len() {
        return Err(Failure::installation("not all files were looked at"));
    }
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u32> = (0..1_000).collect();
        assert_eq!(map(&items, |item| Ok(item * 2)).expect("all").len(), items.len());
        let doubled = map(&items, |item| Ok(item * 2)).expect("all");
        assert!(doubled.iter().zip(&items).all(|(two, one)| *two == one * 2));
        assert_eq!(map(&[] as &[u32], |item| Ok(*item)).expect("none"), [0; 0]);
    }

    #[test]
    fn the_first_failure_counts() {
        let failure = map(&[1, 2, 3, 4], |item| match item {
            1 | 4 => Ok(*item),
            _ => Err(Failure::arguments(format!("no {item}"))),
        });
        assert!(failure.expect_err("two").report().contains("no 2"));
    }
}
