//! The items of a session, in crates.
//!
//! The items of one cell are one crate, compiled once; later cells use it as any dependency. A crate's name is a hash
//! of whatever shapes its types: as long as that stays, a rebuilt crate (a function changed, an `impl` added) has the
//! same types, and variables go on; when it changes, the crate has another name, its types are other types, and
//! variables of the old ones keep the old ones. So no value is ever seen through another layout than it was made with.
//!
//! An `impl` must be compiled with its type or trait (Rust's orphan rule), so it joins that crate. Crates that need each
//! other become one. Pure: [`super::build`] compiles what a plan asks for.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::item::{Item, Key, Kind};
use super::parse::UseLeaf;

/// Begins the name of every crate of items.
pub(super) const CRATE_PREFIX: &str = "it_";
/// Hexadecimal digits of the hash in a crate's name.
const NAME_DIGITS: usize = 12;

/// An item in its place.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) item: Item,
    /// Number of the cell that first defined its key: what is older cannot mean it.
    since: u32,
    /// For an item that reads files or the environment: each time it is written it is another one.
    salt: Option<String>,
}

/// What a cell's items do to those that were there.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Items that were not there before in just this form.
    pub(super) keys: BTreeSet<Key>,
    /// Methods that went with an `impl` that another one replaced: its title, its cell, their names.
    pub(super) lost: Vec<(String, u32, Vec<String>)>,
}

/// Items by crate, and the declarations that everything sees.
#[derive(Debug, Clone, Default)]
pub(super) struct Items {
    pub(super) uses: Vec<UseLeaf>,
    /// Crates of `:dep`: name in code, and file, whose name tells versions and features apart.
    pub(super) foreign: BTreeMap<String, String>,
    crates: BTreeMap<u32, Vec<Placed>>,
    next: u32,
}

/// A crate that a plan consists of.
#[derive(Debug, Clone)]
pub(super) struct PlannedCrate {
    pub(super) id: u32,
    /// Changes exactly when its types do.
    pub(super) name: String,
    /// Crates that it uses directly.
    pub(super) needs: BTreeSet<u32>,
}

/// What to import for a set of mentioned names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Imports {
    /// Names by crate; `*` for a macro call whose names are not known exactly.
    pub(super) names: BTreeMap<u32, BTreeSet<String>>,
}

impl Items {
    /// With a cell's items in it, and what that changes.
    pub(super) fn with(&self, new: &[Item]) -> (Self, Changes) {
        let mut items = self.clone();
        let mut changes = Changes::default();
        let own = items.next;
        items.next += 1;
        for item in new {
            let is_same = |placed: &Placed| placed.item.text() == item.text() && placed.salt.is_none();
            if items.find(&item.key).is_some_and(is_same) {
                continue;
            }
            changes.keys.insert(item.key.clone());
            changes.lost.extend(items.remove_replaced_methods(item));
            items.forget_leaves_of(item);
            let salt = item.is_volatile().then(|| uuid::Uuid::new_v4().to_string());
            let host = items.host(item);
            match items.find_mut(&item.key) {
                Some(placed) => {
                    placed.item = item.clone();
                    placed.salt = salt;
                }
                None => {
                    let since = item.origin.cell.number;
                    let placed = Placed {
                        item: item.clone(),
                        since,
                        salt,
                    };
                    items.crates.entry(host.unwrap_or(own)).or_default().push(placed);
                }
            }
        }
        items.join_cycles();
        (items, changes)
    }

    /// Without some of them.
    pub(super) fn without(&self, keys: &BTreeSet<Key>) -> Self {
        let mut items = self.clone();
        for placed in items.crates.values_mut() {
            placed.retain(|one| !keys.contains(&one.item.key));
        }
        items.crates.retain(|_, placed| !placed.is_empty());
        items
    }

    /// Crates in an order in which each comes behind those that it needs.
    pub(super) fn plan(&self) -> Vec<PlannedCrate> {
        let mut names: BTreeMap<u32, String> = BTreeMap::new();
        let mut plan = Vec::new();
        let needs: BTreeMap<u32, BTreeSet<u32>> =
            self.crates.keys().map(|id| (*id, self.needs(*id))).collect();
        while plan.len() < self.crates.len() {
            let ready = |id: &&u32| {
                !names.contains_key(*id) && needs[*id].iter().all(|need| names.contains_key(need))
            };
            // Without cycles there always is one; with a fault of ours it is better to stop than to spin.
            let Some(id) = self.crates.keys().find(ready).copied() else {
                break;
            };
            let name = self.name(id, &needs[&id], &names);
            names.insert(id, name.clone());
            plan.push(PlannedCrate {
                id,
                name,
                needs: needs[&id].clone(),
            });
        }
        plan
    }

    pub(super) fn of_crate(&self, id: u32) -> impl Iterator<Item = &Item> {
        self.crates
            .get(&id)
            .into_iter()
            .flatten()
            .map(|placed| &placed.item)
    }

    /// The newest cell that a crate has an item of.
    pub(super) fn number_of(&self, id: u32) -> u32 {
        self.of_crate(id)
            .map(|item| item.origin.cell.number)
            .max()
            .unwrap_or_default()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Item> {
        self.crates.values().flatten().map(|placed| &placed.item)
    }

    /// Takes declarations in, in place of older ones of their names.
    pub(super) fn add_uses(&mut self, new: &[UseLeaf]) {
        for leaf in new {
            let is_there = |old: &UseLeaf| old.text == leaf.text && old.until == u32::MAX;
            // The same again: items of before go on seeing it.
            if self.uses.iter().any(is_there) {
                continue;
            }
            if let Some(name) = &leaf.name {
                self.end_leaves(leaf.number, |old| old.name.as_ref() == Some(name));
            }
            self.uses.push(leaf.clone());
        }
    }

    /// From this cell on some declarations are not seen any more.
    pub(super) fn end_leaves(&mut self, number: u32, which: impl Fn(&UseLeaf) -> bool) {
        let living = self.uses.iter_mut().filter(|leaf| leaf.until == u32::MAX);
        living
            .filter(|leaf| which(leaf))
            .for_each(|leaf| leaf.until = number);
    }

    /// `use Colour::Red` after a `Colour` that has no `Red` any more.
    fn forget_leaves_of(&mut self, item: &Item) {
        let number = item.origin.cell.number;
        let names = item.names.clone();
        let mentions = item.mentions.clone();
        self.end_leaves(number, |leaf| {
            let last = leaf
                .text
                .trim_end_matches(';')
                .rsplit("::")
                .next()
                .unwrap_or_default();
            let last = last.split(" as ").next().unwrap_or_default();
            leaf.number < number && names.contains(&leaf.root) && last != "*" && !mentions.contains(last)
        });
    }

    /// Whether a name is an item's.
    pub(super) fn defines(&self, name: &str) -> bool {
        self.all().any(|item| item.names.iter().any(|one| one == name))
    }

    /// The mentioned names; those that the bodies of mentioned macros mention, which are looked up where the macro is
    /// used; and the items that mentioned declarations lead through (`use Colour::*`).
    pub(super) fn close(&self, mentions: &BTreeSet<String>) -> BTreeSet<String> {
        self.close_for(mentions, u32::MAX - 1)
    }

    /// As [`Items::close`], for a text of this cell: it sees no later declarations.
    fn close_for(&self, mentions: &BTreeSet<String>, number: u32) -> BTreeSet<String> {
        let mut closed = mentions.clone();
        let mut open: Vec<String> = mentions.iter().cloned().collect();
        while let Some(name) = open.pop() {
            let is_macro = |item: &&Item| item.kind == Kind::Shaping && item.text().contains("macro_rules!");
            for item in self
                .all()
                .filter(is_macro)
                .filter(|item| item.names.contains(&name))
            {
                for inner in &item.mentions {
                    if closed.insert(inner.clone()) {
                        open.push(inner.clone());
                    }
                }
            }
        }
        let seen = self.uses.iter().filter(|leaf| leaf.is_seen_by(number));
        let roots = seen
            .filter(|leaf| leaf.is_needed(&closed))
            .map(|leaf| leaf.root.clone());
        let roots: Vec<String> = roots.collect();
        closed.extend(roots);
        closed
    }

    /// What a text of now must import that mentions these names.
    pub(super) fn imports(&self, mentions: &BTreeSet<String>) -> Imports {
        self.imports_where(mentions, |_| true, |_, _| true)
    }

    fn imports_where(
        &self,
        mentions: &BTreeSet<String>,
        crates: impl Fn(u32) -> bool,
        known: impl Fn(&Placed, bool) -> bool,
    ) -> Imports {
        let mut imports = Imports::default();
        for (id, placed) in self.crates.iter().filter(|(id, _)| crates(**id)) {
            for one in placed {
                let item = &one.item;
                let is_call = item.names.len() > 1 || item.text().contains("thread_local");
                for name in item.names.iter().filter(|name| mentions.contains(*name)) {
                    if known(one, false) {
                        let name = if is_call { "*" } else { name.as_str() };
                        imports.names.entry(*id).or_default().insert(name.to_owned());
                    }
                }
                // Its functions are called on values, without its name.
                if item.kind == Kind::Trait && !item.members.is_disjoint(mentions) && known(one, true) {
                    imports
                        .names
                        .entry(*id)
                        .or_default()
                        .extend(item.names.iter().cloned());
                }
            }
        }
        imports
    }

    /// What a crate must import.
    pub(super) fn imports_of(&self, id: u32) -> Imports {
        let mut all = Imports::default();
        for placed in self.crates.get(&id).into_iter().flatten() {
            let number = placed.item.origin.cell.number;
            let mentions = self.close_for(&placed.item.mentions, number);
            let found =
                self.imports_where(&mentions, |other| other != id, |target, _| target.since <= number);
            for (other, names) in found.names {
                all.names.entry(other).or_default().extend(names);
            }
        }
        all
    }

    fn needs(&self, id: u32) -> BTreeSet<u32> {
        self.imports_of(id).names.into_keys().collect()
    }

    fn name(&self, id: u32, needs: &BTreeSet<u32>, names: &BTreeMap<u32, String>) -> String {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        let shaping: Vec<&Item> = self.of_crate(id).filter(|item| item.kind.is_shaping()).collect();
        let number = self.number_of(id);
        for item in &shaping {
            part(item.text());
            // Whatever can change the meaning of its words: declarations as they stand in its crate, and crates.
            let mentions = self.close_for(&item.mentions, number);
            let seen = self.uses.iter().filter(|leaf| leaf.is_seen_by(number));
            let is_meant = |leaf: &&UseLeaf| match &leaf.name {
                Some(name) => mentions.contains(name),
                None => leaf.text.ends_with("*;"),
            };
            let meant: Vec<&UseLeaf> = seen.filter(is_meant).collect();
            meant.iter().for_each(|leaf| part(&leaf.text));
            for (name, file) in &self.foreign {
                if mentions.contains(name) || meant.iter().any(|leaf| leaf.root == *name) {
                    part(file);
                }
            }
        }
        for placed in self.crates.get(&id).into_iter().flatten() {
            placed.salt.iter().for_each(|salt| part(salt));
        }
        if shaping.is_empty() {
            // Nothing that has a type: only to be told from others.
            self.of_crate(id).for_each(|item| part(item.title()));
        } else {
            needs.iter().for_each(|need| part(&names[need]));
        }
        let mut digits = hex::encode(hash.finalize());
        digits.truncate(NAME_DIGITS);
        format!("{CRATE_PREFIX}{digits}")
    }

    fn find(&self, key: &Key) -> Option<&Placed> {
        self.crates
            .values()
            .flatten()
            .find(|placed| placed.item.key == *key)
    }

    fn find_mut(&mut self, key: &Key) -> Option<&mut Placed> {
        self.crates
            .values_mut()
            .flatten()
            .find(|placed| placed.item.key == *key)
    }

    /// An inherent `impl` that defines a method again replaces the one that had it.
    fn remove_replaced_methods(&mut self, new: &Item) -> Vec<(String, u32, Vec<String>)> {
        let Key::Impl(head) = &new.key else {
            return Vec::new();
        };
        let start = |head: &str| head.split(" { ").next().unwrap_or_default().to_owned();
        let is_inherent = head.contains(" { ");
        if !is_inherent {
            return Vec::new();
        }
        let replaced = |placed: &Placed| match &placed.item.key {
            Key::Impl(other) => {
                *other != *head
                    && other.contains(" { ")
                    && start(other) == start(head)
                    && !placed.item.members.is_disjoint(&new.members)
                    && placed.item.origin.cell.number != new.origin.cell.number
            }
            Key::Name(_) => false,
        };
        let mut lost = Vec::new();
        for placed in self.crates.values_mut() {
            for one in placed.iter().filter(|one| replaced(one)) {
                let others: Vec<String> = one.item.members.difference(&new.members).cloned().collect();
                if !others.is_empty() {
                    lost.push((start(one.item.title()), one.item.origin.cell.shown, others));
                }
            }
            placed.retain(|one| !replaced(one));
        }
        self.crates.retain(|_, placed| !placed.is_empty());
        lost
    }

    /// The crate that an `impl` must join: the newest one that has a type or trait of its head.
    fn host(&self, new: &Item) -> Option<u32> {
        let Key::Impl(head) = &new.key else { return None };
        let head = head.split(" { ").next().unwrap_or_default();
        let words: BTreeSet<&str> = head.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        let has = |placed: &Placed| {
            !placed.item.kind.is_impl()
                && placed.item.kind.is_shaping()
                && placed.item.names.iter().any(|name| words.contains(name.as_str()))
        };
        self.crates
            .iter()
            .rev()
            .find(|(_, placed)| placed.iter().any(has))
            .map(|(id, _)| *id)
    }

    /// Joins crates that need each other, directly or not.
    fn join_cycles(&mut self) {
        loop {
            let needs: BTreeMap<u32, BTreeSet<u32>> =
                self.crates.keys().map(|id| (*id, self.needs(*id))).collect();
            let Some((first, second)) = cycle(&needs) else {
                return;
            };
            let (into, from) = (first.min(second), first.max(second));
            if let Some(moved) = self.crates.remove(&from) {
                self.crates.entry(into).or_default().extend(moved);
            }
        }
    }
}

/// Two crates that need each other.
fn cycle(needs: &BTreeMap<u32, BTreeSet<u32>>) -> Option<(u32, u32)> {
    let reaches = |from: u32, to: u32| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(id) = open.pop() {
            for need in needs.get(&id).into_iter().flatten() {
                if *need == to {
                    return true;
                }
                if seen.insert(*need) {
                    open.push(*need);
                }
            }
        }
        false
    };
    let edges = needs
        .iter()
        .flat_map(|(id, all)| all.iter().map(move |need| (*id, *need)));
    edges.into_iter().find(|(id, need)| reaches(*need, *id))
}

#[cfg(test)]
mod tests;
