//! Commands that a page prepares for a shell: each word quoted so that it arrives as it was typed.

/// Longest command on one line, characters.
const LINE: usize = 72;

/// A command in the making: its start, then one part for each flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command(Vec<String>);

impl Command {
    /// Of words that need no quotes.
    pub(crate) fn new(words: &str) -> Self {
        Self(vec![words.to_owned()])
    }

    /// With another word beside what is last.
    #[must_use]
    pub(crate) fn word(mut self, word: &str) -> Self {
        if let Some(last) = self.0.last_mut() {
            last.push(' ');
            last.push_str(&quoted(word));
        }
        self
    }

    /// With a flag and its value, where there is one.
    #[must_use]
    pub(crate) fn flag(self, name: &str, value: &str) -> Self {
        match value.is_empty() {
            true => self,
            false => self.bare(name).word(value),
        }
    }

    /// With a flag that has no value.
    #[must_use]
    pub(crate) fn bare(mut self, name: &str) -> Self {
        self.0.push(name.to_owned());
        self
    }

    /// The text to copy; a long one has a line for each flag.
    pub(crate) fn text(self) -> String {
        let line = self.0.join(" ");
        match line.chars().count() <= LINE {
            true => line,
            false => self.0.join(" \\\n    "),
        }
    }
}

/// A word as a POSIX shell reads it as one.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@:=+,%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_words_that_were_typed() {
        let hostile = "a b'; rm -rf \"$HOME\" `id` #\n\\";
        let command = Command::new("printf '%s\\n'")
            .word("plain/path.v1")
            .word(hostile)
            .flag("--name", "")
            .flag("--licence", "apache-2.0")
            .bare("--public");
        let ran = std::process::Command::new("sh")
            .arg("-c")
            .arg(command.text())
            .output()
            .unwrap();
        let expected = format!("plain/path.v1\n{hostile}\n--licence\napache-2.0\n--public\n");
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), expected);
        assert_eq!(quoted(""), "''");
    }
}
