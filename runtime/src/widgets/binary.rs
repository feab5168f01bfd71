//! Binary parts of a widget's state, which travel beside the JSON in buffers of the message.
//!
//! Protocol: "Jupyter widgets messaging protocol", section on `buffer_paths`: a path names where in the state a buffer
//! belongs; the place itself is null in a list, and absent in an object.

use serde_json::{Value, json};

use super::model::State;

/// One binary part.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Binary {
    /// The name in the state that the part is in or below of.
    name: String,
    /// Names and places below it.
    rest: Vec<Value>,
    bytes: Vec<u8>,
}

impl Binary {
    /// What a message's buffers are. A buffer without a path that begins with a name, and a path without a buffer, are
    /// left out.
    pub(super) fn of(paths: &Value, buffers: Vec<Vec<u8>>) -> Vec<Self> {
        let paths = paths.as_array().cloned().unwrap_or_default();
        let pairs = paths.into_iter().zip(buffers);
        let parts = pairs.filter_map(|(path, bytes)| {
            let (name, rest) = path.as_array()?.split_first()?;
            let (name, rest) = (name.as_str()?.to_owned(), rest.to_vec());
            Some(Self { name, rest, bytes })
        });
        parts.collect()
    }

    /// Bytes of it.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The name in the state.
    pub(super) fn name(&self) -> &String {
        &self.name
    }

    /// Whether a part of the state has it.
    pub(super) fn is_in(&self, state: &State) -> bool {
        state.contains_key(&self.name)
    }

    /// Its bytes, when it is at this place below this name.
    pub(super) fn at(&self, name: &str, rest: &[Value]) -> Option<&[u8]> {
        (self.name == name && self.rest == rest).then_some(self.bytes.as_slice())
    }

    /// The same part, seen from above.
    pub(super) fn below(&self, names: &[&str]) -> Self {
        let mut path = names.iter().copied().chain([self.name.as_str()]).map(Value::from);
        let name = path.next().and_then(|name| name.as_str().map(str::to_owned));
        Self {
            name: name.unwrap_or_default(),
            rest: path.chain(self.rest.iter().cloned()).collect(),
            bytes: self.bytes.clone(),
        }
    }
}

/// Paths and buffers, as a message has them.
pub(super) fn paths_of(parts: impl IntoIterator<Item = Binary>) -> (Vec<Value>, Vec<Vec<u8>>) {
    let all = parts.into_iter().map(|part| {
        let mut path = vec![json!(part.name)];
        path.extend(part.rest);
        (Value::Array(path), part.bytes)
    });
    all.unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_belong_where_their_paths_say_and_lies_are_left_out() {
        let paths = json!([
            ["value", 0, "content"],
            [],
            [1],
            ["value", 1, "content"],
            ["more"]
        ]);
        let buffers: Vec<Vec<u8>> = (0..4).map(|byte| vec![byte]).collect();
        let parts = Binary::of(&paths, buffers);
        assert_eq!(parts.len(), 2);
        assert_eq!(
            parts[0].at("value", &[json!(0), json!("content")]),
            Some(&[0][..])
        );
        assert_eq!(
            parts[1].at("value", &[json!(1), json!("content")]),
            Some(&[3][..])
        );
        let (paths, _) = paths_of([parts[0].below(&["id", "state"])]);
        assert_eq!(paths, [json!(["id", "state", "value", 0, "content"])]);
        assert_eq!(Binary::of(&json!("no list"), vec![vec![1]]), []);
    }
}
