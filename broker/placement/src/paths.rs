//! Evening out loads by moving things along paths.
//!
//! Each thing (a replica, a leadership) is at one broker and may be at some others. While some broker
//! has more than another and a path of things leads from the one to the other, moving each
//! thing on it one broker further evens them out, and the brokers between keep their load.
//! No such path is left exactly when the assignment is as even as it can be: this is the cost-reducing
//! path search for semi-matchings (Harvey, Ladner, Lovász, Tamir 2003), which is exact as long as
//! things do not get in each other's way.

use std::cmp::Ordering;

/// Passes over all brokers. Each pass but the last makes loads strictly more even, and in practice the
/// second finds nothing left; the bound is there so that no input makes planning endless.
const MAX_PASSES: usize = 32;

/// Things at brokers, and where they may go.
pub(crate) trait Bins {
    fn brokers(&self) -> usize;
    /// The things at a broker that may move, in order.
    fn items(&self, broker: usize) -> &[u32];
    /// Whether things may come to the broker.
    fn takes(&self, broker: usize) -> bool;
    /// Orders by what giving one thing away relieves: the greatest gives first.
    fn heavier(&self, a: usize, b: usize) -> Ordering;
    /// Orders by what one thing more would burden: the least gets first.
    fn lighter(&self, a: usize, b: usize) -> Ordering;
    /// Whether one thing less here and one more there is better. Never true both ways.
    fn wanted(&self, from: usize, to: usize) -> bool;
    fn can_shift(&self, item: u32, to: usize) -> bool;
    /// Adds the brokers that are not `seen` and to which the thing can shift.
    fn reach(&self, item: u32, seen: &[bool], found: &mut Vec<usize>);
    /// The best thing to shift from the one to the other, if any can.
    fn best(&self, from: usize, to: usize) -> Option<u32>;
    fn shift(&mut self, item: u32, to: usize);
}

struct Edge {
    item: u32,
    from: usize,
    to: usize,
}

enum Search {
    /// The edges from the start to a broker that should have one more.
    Path(Vec<Edge>),
    /// All brokers that can be reached; none should have one more.
    Closed(Vec<usize>),
}

/// Evens out; returns how many things were looked at.
pub(crate) fn balance<B: Bins>(bins: &mut B) -> u64 {
    let mut steps = 0;
    for _ in 0..MAX_PASSES {
        if !pass(bins, &mut steps) {
            break;
        }
    }
    steps
}

/// Goes over all brokers, the heaviest first; whether anything moved.
fn pass<B: Bins>(bins: &mut B, steps: &mut u64) -> bool {
    let count = bins.brokers();
    let mut settled: Vec<bool> = (0..count).map(|broker| bins.items(broker).is_empty()).collect();
    let mut moved = false;
    while let Some(heaviest) = (0..count)
        .filter(|at| !settled[*at])
        .max_by(|a, b| bins.heavier(*a, *b).then(b.cmp(a)))
    {
        let lightest = (0..count)
            .filter(|to| bins.takes(*to) && bins.wanted(heaviest, *to))
            .min_by(|a, b| bins.lighter(*a, *b).then(a.cmp(b)));
        if let Some(to) = lightest {
            *steps += bins.items(heaviest).len() as u64;
            if let Some(item) = bins.best(heaviest, to) {
                bins.shift(item, to);
                moved = true;
                continue;
            }
        } else if !(0..count).any(|to| bins.wanted(heaviest, to)) {
            settled[heaviest] = true;
            continue;
        }
        match search(bins, heaviest, steps) {
            Search::Path(path) => {
                // A path can undo itself where two replicas of one partition are on it.
                if follow(bins, &path) {
                    moved = true;
                } else {
                    settled[heaviest] = true;
                }
            }
            Search::Closed(reached) => {
                // What can be reached from one of them can be reached from the start.
                for from in &reached {
                    settled[*from] |= !reached.iter().any(|to| bins.wanted(*from, *to));
                }
                settled[heaviest] = true;
            }
        }
    }
    moved
}

/// Breadth first, so that the fewest things move; among brokers equally far the lightest is taken.
fn search<B: Bins>(bins: &B, start: usize, steps: &mut u64) -> Search {
    let count = bins.brokers();
    let mut seen = vec![false; count];
    let mut parents: Vec<Option<(usize, u32)>> = vec![None; count];
    let mut reached = vec![start];
    let mut unseen = count - 1;
    seen[start] = true;
    let mut layer = vec![start];
    let mut found = Vec::new();
    while !layer.is_empty() {
        let mut next = Vec::new();
        for from in layer {
            for item in bins.items(from) {
                if unseen == 0 {
                    break;
                }
                *steps += 1;
                bins.reach(*item, &seen, &mut found);
                for to in found.drain(..) {
                    if !std::mem::replace(&mut seen[to], true) {
                        unseen -= 1;
                        parents[to] = Some((from, *item));
                        next.push(to);
                    }
                }
            }
        }
        let ends = next.iter().copied().filter(|to| bins.wanted(start, *to));
        if let Some(end) = ends.min_by(|a, b| bins.lighter(*a, *b).then(a.cmp(b))) {
            return Search::Path(edges(bins, start, end, &parents, steps));
        }
        reached.extend(&next);
        layer = next;
    }
    Search::Closed(reached)
}

/// The path's edges, the last first.
fn edges<B: Bins>(bins: &B, start: usize, end: usize, parents: &[Option<(usize, u32)>], steps: &mut u64) -> Vec<Edge> {
    let mut path = Vec::new();
    let mut to = end;
    while let Some((from, item)) = parents[to] {
        path.push(Edge { item, from, to });
        if from == start {
            break;
        }
        to = from;
    }
    if let [edge] = path.as_mut_slice()
        && let Some(item) = bins.best(edge.from, edge.to)
    {
        *steps += bins.items(edge.from).len() as u64;
        edge.item = item;
    }
    path
}

/// Moves along the path, or not at all.
fn follow<B: Bins>(bins: &mut B, path: &[Edge]) -> bool {
    for (done, edge) in path.iter().enumerate() {
        if !bins.can_shift(edge.item, edge.to) {
            for undone in path[..done].iter().rev() {
                bins.shift(undone.item, undone.from);
            }
            return false;
        }
        bins.shift(edge.item, edge.to);
    }
    !path.is_empty()
}
