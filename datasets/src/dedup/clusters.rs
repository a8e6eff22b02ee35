//! Which records belong together: union-find, the first record of a cluster at its root.

pub struct Clusters {
    parents: Vec<u32>,
}

impl Clusters {
    /// Each alone.
    pub fn new(count: u32) -> Self {
        Self {
            parents: (0..count).collect(),
        }
    }

    /// The first of the cluster.
    pub fn root(&mut self, mut item: u32) -> u32 {
        while self.parents[item as usize] != item {
            let above = self.parents[item as usize];
            self.parents[item as usize] = self.parents[above as usize];
            item = above;
        }
        item
    }

    pub fn unite(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stands_for_its_cluster_whatever_the_order() {
        let mut clusters = Clusters::new(6);
        for (a, b) in [(5, 4), (4, 2), (3, 1), (5, 3)] {
            clusters.unite(a, b);
        }
        let roots: Vec<u32> = (0..6).map(|item| clusters.root(item)).collect();
        assert_eq!(roots, [0, 1, 1, 1, 1, 1]);
    }
}
