//! Numbers and folders of a dataset's entries. Made once: a version never changes.

use std::collections::HashMap;

use alephlab_vault::Entry;

/// Number of the root folder.
pub(crate) const ROOT: u64 = 1;

/// Which entry has which number, and what lies in which folder.
#[derive(Debug)]
pub(crate) struct Tree {
    /// By number, the root's left out: number 2 is the first entry.
    nodes: Vec<Node>,
    /// What lies in the root.
    root: Vec<u64>,
    /// Number by folder and name.
    names: HashMap<(u64, String), u64>,
}

#[derive(Debug)]
struct Node {
    parent: u64,
    name: String,
    /// Of a folder, in name order.
    children: Vec<u64>,
}

impl Tree {
    /// Of entries in path order, whose folders are entries too or are not named at all.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let mut numbers: HashMap<&str, u64> = HashMap::with_capacity(entries.len());
        for (number, entry) in (ROOT + 1..).zip(entries) {
            numbers.insert(&entry.path, number);
        }
        let mut tree = Self {
            nodes: Vec::with_capacity(entries.len()),
            root: Vec::new(),
            names: HashMap::with_capacity(entries.len()),
        };
        for entry in entries {
            let (folder, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
            let parent = numbers.get(folder).copied().unwrap_or(ROOT);
            tree.nodes.push(Node {
                parent,
                name: name.to_owned(),
                children: Vec::new(),
            });
        }
        for number in (ROOT + 1..).take(entries.len()) {
            let Some((parent, name)) = tree.node(number).map(|node| (node.parent, node.name.clone())) else {
                continue;
            };
            tree.names.insert((parent, name), number);
            match tree.node_mut(parent) {
                Some(node) => node.children.push(number),
                None => tree.root.push(number),
            }
        }
        tree
    }

    /// Place of a number among the entries; none for the root.
    pub(crate) fn entry(&self, number: u64) -> Option<usize> {
        let place = usize::try_from(number.checked_sub(ROOT + 1)?).ok()?;
        (place < self.nodes.len()).then_some(place)
    }

    pub(crate) fn find(&self, folder: u64, name: &str) -> Option<u64> {
        self.names.get(&(folder, name.to_owned())).copied()
    }

    /// Numbers and names in a folder, in name order; nothing for a file.
    pub(crate) fn children(&self, folder: u64) -> impl Iterator<Item = (u64, &str)> {
        let children = match self.node(folder) {
            Some(node) => &node.children,
            None => &self.root,
        };
        children.iter().map(|number| (*number, self.name(*number)))
    }

    pub(crate) fn parent(&self, number: u64) -> u64 {
        self.node(number).map_or(ROOT, |node| node.parent)
    }

    fn name(&self, number: u64) -> &str {
        self.node(number).map_or("", |node| node.name.as_str())
    }

    fn node(&self, number: u64) -> Option<&Node> {
        self.nodes.get(self.entry(number)?)
    }

    fn node_mut(&mut self, number: u64) -> Option<&mut Node> {
        let place = self.entry(number)?;
        self.nodes.get_mut(place)
    }
}
