//! Maximum flow, to tell exactly whether an assignment can be.

use std::collections::VecDeque;

pub struct Flow {
    edges: Vec<(usize, usize)>,
    from: Vec<Vec<usize>>,
}

impl Flow {
    pub fn new(nodes: usize) -> Self {
        Self {
            edges: Vec::new(),
            from: vec![Vec::new(); nodes],
        }
    }

    pub fn edge(&mut self, from: usize, to: usize, capacity: usize) {
        self.from[from].push(self.edges.len());
        self.edges.push((to, capacity));
        self.from[to].push(self.edges.len());
        self.edges.push((from, 0));
    }

    /// By shortest augmenting paths of one unit each.
    pub fn max(mut self, source: usize, sink: usize) -> usize {
        let mut flow = 0;
        loop {
            let mut by: Vec<Option<usize>> = vec![None; self.from.len()];
            let mut queue = VecDeque::from([source]);
            while let Some(node) = queue.pop_front() {
                for edge in &self.from[node] {
                    let (to, capacity) = self.edges[*edge];
                    if capacity > 0 && to != source && by[to].is_none() {
                        by[to] = Some(*edge);
                        queue.push_back(to);
                    }
                }
            }
            if by[sink].is_none() {
                return flow;
            }
            let mut node = sink;
            while let Some(edge) = by[node] {
                self.edges[edge].1 -= 1;
                self.edges[edge ^ 1].1 += 1;
                node = self.edges[edge ^ 1].0;
            }
            flow += 1;
        }
    }
}

/// Whether `partitions` of `factor` replicas find place with each rack's share as even as can be and at
/// most `most` and at least `least` replicas on each broker. `racks` are the brokers' racks, all known.
pub fn can_place(racks: &[usize], partitions: usize, factor: usize, least: usize, most: usize) -> bool {
    let count = racks.iter().max().unwrap() + 1;
    let sizes: Vec<usize> = (0..count)
        .map(|rack| racks.iter().filter(|at| **at == rack).count())
        .collect();
    let level = (1..)
        .find(|level| sizes.iter().map(|size| size.min(level)).sum::<usize>() >= factor)
        .unwrap();
    let low: usize = sizes.iter().map(|size| *size.min(&(level - 1))).sum();
    // Nodes: source, sink, spare, then brokers, then per partition one for what it has beyond the least and one for each rack.
    let (source, sink, spare, first) = (0, 1, 2, 3);
    let parts = first + racks.len();
    let each = count + 1;
    let mut flow = Flow::new(parts + partitions * each);
    for part in 0..partitions {
        let extra = parts + part * each;
        flow.edge(source, extra, factor - low);
        for (rack, size) in sizes.iter().enumerate() {
            let node = extra + 1 + rack;
            let low = *size.min(&(level - 1));
            flow.edge(source, node, low);
            flow.edge(extra, node, size.min(&level) - low);
            for (broker, at) in racks.iter().enumerate() {
                if *at == rack {
                    flow.edge(node, first + broker, 1);
                }
            }
        }
    }
    // What every broker must have goes straight to the sink, the rest shares what is left.
    let total = partitions * factor;
    let Some(rest) = total.checked_sub(least * racks.len()) else {
        return false;
    };
    for broker in 0..racks.len() {
        flow.edge(first + broker, sink, least);
        flow.edge(first + broker, spare, most - least);
    }
    flow.edge(spare, sink, rest);
    flow.max(source, sink) == total
}

/// Whether every item finds one of its `places` with between `least` and `most` items at each.
pub fn can_choose(places: &[Vec<usize>], brokers: usize, least: usize, most: usize) -> bool {
    let (source, sink, spare, first) = (0, 1, 2, 3);
    let items = first + brokers;
    let mut flow = Flow::new(items + places.len());
    for (item, places) in places.iter().enumerate() {
        flow.edge(source, items + item, 1);
        for place in places {
            flow.edge(items + item, first + place, 1);
        }
    }
    let Some(rest) = places.len().checked_sub(least * brokers) else {
        return false;
    };
    for broker in 0..brokers {
        flow.edge(first + broker, sink, least);
        flow.edge(first + broker, spare, most - least);
    }
    flow.edge(spare, sink, rest);
    flow.max(source, sink) == places.len()
}
