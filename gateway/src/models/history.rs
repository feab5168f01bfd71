//! What follows from all that was said of a model: which revisions are offered, which is the newest, what tags name.
//!
//! Pure, and of the same messages always the same, so that every gateway that has seen them shows the same model.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use alephlab_api::model::{IndexedModel, ModelRecord, ModelTags, ModelWithdrawal};

use crate::store::{History, StoredTerms};

/// The revisions that are offered, newest first: none comes before one that was made upon it. Of those that could come next
/// the one with the latest `created` does, and of equal ones that with the smaller commit. Withdrawn ones are not in it, but
/// their place in the history counts.
pub(crate) fn offered(history: &History) -> Vec<&IndexedModel> {
    let records: Vec<_> = history.records.iter().map(|one| &one.record).collect();
    let mut order = newest_first(&records);
    order.retain(|place| is_offered(records[*place], &history.withdrawals));
    order.into_iter().map(|place| &history.records[place]).collect()
}

/// The tags of a model whose offered revisions these are, newest first. The owner's tags are all that there are; a record that
/// was made later adds its own, the newest last.
pub(crate) fn tags(offered: &[&IndexedModel], said: Option<&ModelTags>) -> BTreeMap<String, String> {
    let mut tags = said.map(|said| said.tags.clone()).unwrap_or_default();
    for one in offered.iter().rev() {
        let record = &one.record;
        if said.is_none_or(|said| record.created > said.created) {
            let own = record.tags.iter().map(|tag| (tag.clone(), record.commit.clone()));
            tags.extend(own);
        }
    }
    tags.retain(|_, revision| offered.iter().any(|one| one.record.commit == *revision));
    tags
}

/// What the owner asks for its sealed revisions. Who withdraws a whole model asks nothing any more.
pub(crate) fn terms(history: &History) -> Option<&StoredTerms> {
    let withdrawn = |made: u64| {
        let mut all = history.withdrawals.iter().filter(|one| one.commit.is_none());
        all.any(|one| one.created >= made)
    };
    history
        .terms
        .as_ref()
        .filter(|stored| !withdrawn(stored.terms.created))
}

/// Whether nobody withdrew it. What is made after the withdrawal of a whole model begins it anew.
fn is_offered(record: &ModelRecord, withdrawals: &[ModelWithdrawal]) -> bool {
    !withdrawals.iter().any(|withdrawal| match &withdrawal.commit {
        Some(commit) => *commit == record.commit,
        None => withdrawal.created >= record.created,
    })
}

/// Places of records, children before their parents.
fn newest_first(records: &[&ModelRecord]) -> Vec<usize> {
    let places: HashMap<&str, usize> = records
        .iter()
        .enumerate()
        .map(|(n, one)| (&*one.commit, n))
        .collect();
    let parent = |place: usize| places.get(records[place].parent.as_deref()?).copied();
    let key = |place: usize| (records[place].created, Reverse(&*records[place].commit), place);
    let mut children = vec![0_usize; records.len()];
    for parent in (0..records.len()).filter_map(parent) {
        children[parent] += 1;
    }
    let mut next: BinaryHeap<_> = (0..records.len())
        .filter(|place| children[*place] == 0)
        .map(key)
        .collect();
    let mut order = Vec::with_capacity(records.len());
    while let Some((_, _, place)) = next.pop() {
        order.push(place);
        if let Some(parent) = parent(place) {
            children[parent] -= 1;
            if children[parent] == 0 {
                next.push(key(parent));
            }
        }
    }
    // Parents that go round in a circle, which only their owner can make.
    let mut left: Vec<_> = (0..records.len()).filter(|place| children[*place] > 0).collect();
    left.sort_by_key(|place| Reverse(key(*place)));
    order.extend(left);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(commit: char, parent: Option<char>, created: u64) -> IndexedModel {
        let name = |letter: char| letter.to_string().repeat(40);
        IndexedModel {
            message: name(commit),
            record: ModelRecord {
                owner: "0xAb".into(),
                name: "0xAb/digits".into(),
                commit: name(commit),
                parent: parent.map(name),
                tags: vec![format!("of-{commit}"), "latest".into()],
                price: "free".into(),
                head: "b".repeat(64),
                created,
                ..ModelRecord::default()
            },
        }
    }

    fn order(history: &History) -> String {
        offered(history)
            .iter()
            .filter_map(|one| one.record.commit.chars().next())
            .collect()
    }

    fn withdrawn(commit: Option<char>, created: u64) -> ModelWithdrawal {
        ModelWithdrawal {
            owner: "0xAb".into(),
            name: "0xAb/digits".into(),
            commit: commit.map(|letter| letter.to_string().repeat(40)),
            created,
        }
    }

    #[test]
    fn parents_come_after_what_was_made_upon_them_whatever_clocks_say() {
        let mut history = History {
            records: vec![
                record('a', None, 9),
                record('b', Some('a'), 5),
                record('c', Some('b'), 7),
            ],
            ..History::default()
        };
        assert_eq!(order(&history), "cba");
        // The place of what was withdrawn still counts: a is older than c.
        history.withdrawals.push(withdrawn(Some('b'), 1));
        assert_eq!(order(&history), "ca");
        history.records.push(record('d', Some('a'), 7));
        assert_eq!(
            order(&history),
            "cda",
            "of two upon one the later, then the smaller"
        );
        history.records.reverse();
        assert_eq!(order(&history), "cda");
        let circle = History {
            records: vec![record('a', Some('b'), 1), record('b', Some('a'), 2)],
            ..History::default()
        };
        assert_eq!(order(&circle), "ba");
    }

    #[test]
    fn a_model_that_was_withdrawn_begins_anew_with_a_later_record() {
        let mut history = History {
            records: vec![record('a', None, 4), record('b', Some('a'), 5)],
            withdrawals: vec![withdrawn(None, 5)],
            ..History::default()
        };
        assert_eq!(order(&history), "");
        history.records.push(record('c', Some('b'), 6));
        assert_eq!(order(&history), "c");
    }

    #[test]
    fn tags_are_the_owners_and_those_of_later_records_and_name_what_is_there() {
        let history = History {
            records: vec![
                record('a', None, 4),
                record('b', Some('a'), 5),
                record('c', Some('b'), 9),
            ],
            withdrawals: vec![withdrawn(Some('b'), 9)],
            ..History::default()
        };
        let offered = offered(&history);
        let names = |tags: BTreeMap<String, String>| -> Vec<String> {
            tags.into_iter()
                .map(|(tag, revision)| format!("{tag}={}", &revision[..1]))
                .collect()
        };
        assert_eq!(names(tags(&offered, None)), ["latest=c", "of-a=a", "of-c=c"]);
        let said = ModelTags {
            owner: "0xAb".into(),
            name: "0xAb/digits".into(),
            tags: [("old", 'a'), ("gone", 'b')]
                .map(|(tag, at)| (tag.to_owned(), at.to_string().repeat(40)))
                .into(),
            sealed: None,
            serial: 3,
            created: 5,
        };
        assert_eq!(
            names(tags(&offered, Some(&said))),
            ["latest=c", "of-c=c", "old=a"]
        );
    }
}
