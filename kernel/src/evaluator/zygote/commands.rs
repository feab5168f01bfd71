//! Lines of a cell that are not Rust: `:dep`, `:vars`, `%%time`, `!ls`. Pure: [`super`] does what they say.

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// `:dep NAME = "VERSION"`.
    Dep(String),
    /// `:vars`, `%whos`.
    Vars,
    /// `:type EXPRESSION`.
    Type(String),
    /// `:clear`.
    Clear,
    /// `:time`, `%%time`: says how long the rest of the cell takes.
    Time,
    /// `:opt LEVEL`.
    Opt(String),
    /// `:explain E0382`, or of the last error.
    Explain(String),
    /// `:version`.
    Version,
    /// `:show_deps`.
    ShowDeps,
    /// `:help`.
    Help,
    /// `!command`.
    Shell(String),
    /// Something else that begins like a command.
    Unknown(String),
}

/// A cell's commands, and its Rust: command lines are empty there, so that numbers of lines stay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) commands: Vec<Command>,
    pub(super) rust: String,
}

/// Names of all commands, for completion.
pub(crate) const NAMES: [&str; 11] = [
    ":clear",
    ":dep",
    ":explain",
    ":gpu",
    ":help",
    ":opt",
    ":show_deps",
    ":time",
    ":type",
    ":vars",
    ":version",
];

pub(super) const HELP: &str = "\
:dep NAME            use a crate; also :dep NAME = \"1.2\", :dep NAME = { path = \"…\", features = [\"…\"] }
:show_deps           crates in use
:vars, %whos         variables and their types; in a cell of its own also the memory of tensors
%gpu                 the GPU, its driver and memory, or why there is none
:type EXPRESSION     type of an expression, without running it
:time, %%time        how long this cell takes to compile and to run; :time CODE for one line
:clear               forget everything: variables, items, declarations
:opt 2               optimise every cell; :opt 0 only those with loops
:explain             what the last error means; :explain E0382 for another one
:version             versions of kernel and compiler
!COMMAND             run a command of the shell
The value of the last expression is shown. mount, publish, display, plot, progress, input are there: see the guide.
";

/// Takes the commands out of a cell's text.
pub(super) fn split(code: &str) -> Split {
    let mut commands = Vec::new();
    let mut rust = String::with_capacity(code.len());
    let mut in_rust = Nesting::default();
    let mut last = None;
    for line in code.split_inclusive('\n') {
        let text = line.trim();
        if let Some(long) = short_for(text).filter(|_| !in_rust.is_open()) {
            rust.push_str(long);
            rust.push_str(if line.ends_with('\n') { "\n" } else { "" });
            last = Some(';');
            continue;
        }
        // A line that goes on where the one before stopped: `let ok =` and then `!done;`.
        let goes_on = text.starts_with('!') && !matches!(last, None | Some(';' | '}'));
        let found = if in_rust.is_open() || goes_on {
            None
        } else {
            command(text)
        };
        match found {
            Some((command, rest)) => {
                commands.push(command);
                // `:time f()`: the rest is code, at its own column.
                let kept = rest.filter(|rest| !rest.is_empty());
                if let Some(at) = kept.and_then(|rest| line.find(rest)) {
                    rust.push_str(&" ".repeat(line[..at].chars().count()));
                    rust.push_str(&line[at..]);
                } else if line.ends_with('\n') {
                    rust.push('\n');
                }
            }
            None => {
                in_rust.pass(line);
                if !text.is_empty() && !text.starts_with("//") {
                    last = text.chars().next_back();
                }
                rust.push_str(line);
            }
        }
    }
    Split { commands, rust }
}

/// The Rust that a command stands for whose answer only the runtime knows.
pub(super) fn short_for(text: &str) -> Option<&'static str> {
    matches!(text, "%gpu" | ":gpu").then_some("alephlab::show_gpu();")
}

/// Whether a line begins inside brackets, a string or a comment of the lines before. Counts, does not parse: enough to
/// tell a command from a line of a longer text.
#[derive(Default)]
struct Nesting {
    brackets: i32,
    in_string: bool,
    in_comment: bool,
}

impl Nesting {
    fn is_open(&self) -> bool {
        self.brackets > 0 || self.in_string || self.in_comment
    }

    fn pass(&mut self, line: &str) {
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            if self.in_comment {
                if c == '*' && chars.peek() == Some(&'/') {
                    self.in_comment = false;
                }
            } else if self.in_string {
                match c {
                    '\\' => drop(chars.next()),
                    '"' => self.in_string = false,
                    _ => {}
                }
            } else {
                match (c, chars.peek()) {
                    ('/', Some('/')) => return,
                    ('/', Some('*')) => self.in_comment = true,
                    ('"', _) => self.in_string = true,
                    // A character, or a lifetime.
                    ('\'', Some('"' | '(' | ')' | '[' | ']' | '{' | '}')) => drop(chars.next()),
                    ('(' | '[' | '{', _) => self.brackets += 1,
                    (')' | ']' | '}', _) => self.brackets -= 1,
                    _ => {}
                }
            }
        }
    }
}

/// The command on a line, and Rust that follows it on the same line.
fn command(text: &str) -> Option<(Command, Option<&str>)> {
    if let Some(shell) = text.strip_prefix('!') {
        // `!x` is Rust too, but a cell that begins so is rare and `!ls` is not: a negation can be put in brackets.
        let is_shell =
            shell.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.' || c == '/' || c == ' ');
        return is_shell.then(|| (Command::Shell(shell.trim().to_owned()), None));
    }
    let (sign, rest) = match text.strip_prefix("%%").or_else(|| text.strip_prefix('%')) {
        Some(rest) => ('%', rest),
        None => (':', text.strip_prefix(':')?),
    };
    if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let (name, arguments) = match rest.split_once(char::is_whitespace) {
        Some((name, arguments)) => (name, arguments.trim()),
        None => (rest, ""),
    };
    let owned = || arguments.trim_end_matches(';').to_owned();
    let command = match (sign, name) {
        (':', "dep") => Command::Dep(owned()),
        (':', "vars") | ('%', "whos" | "who") => Command::Vars,
        (':', "type" | "t") => Command::Type(owned()),
        (':', "clear") | ('%', "reset") => Command::Clear,
        (_, "time" | "timeit") => return Some((Command::Time, Some(arguments))),
        (':', "opt") => Command::Opt(owned()),
        (':', "explain") => Command::Explain(owned()),
        (':', "version") => Command::Version,
        (':', "show_deps") => Command::ShowDeps,
        (':', "help") => Command::Help,
        _ => Command::Unknown(format!("{}{name}", if sign == '%' { "%" } else { ":" })),
    };
    Some((command, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_out_and_lines_stay_where_they_were() {
        let split = split(":dep rand = \"0.9\"\n// a\nlet x = 1;\n!ls -l\n:vars");
        assert_eq!(
            split.commands,
            [
                Command::Dep("rand = \"0.9\"".to_owned()),
                Command::Shell("ls -l".to_owned()),
                Command::Vars
            ]
        );
        assert_eq!(split.rust, "\n// a\nlet x = 1;\n\n");
    }

    #[test]
    fn time_keeps_the_code_behind_it_at_its_column() {
        let split = split("%%time\nf();\n:time g()");
        assert_eq!(split.commands, [Command::Time, Command::Time]);
        assert_eq!(split.rust, "\nf();\n      g()");
    }

    #[test]
    fn what_only_the_runtime_knows_becomes_a_call_on_its_own_line() {
        let split = split("let x = 1;\n%gpu\nlet y = \"\n%gpu\";");
        assert_eq!(split.commands, []);
        assert_eq!(
            split.rust,
            "let x = 1;\nalephlab::show_gpu();\nlet y = \"\n%gpu\";"
        );
    }

    #[test]
    fn lines_inside_a_text_or_brackets_are_not_commands() {
        let code = "let t = \"\n:vars\n\";\nf(\n!true,\n);\n/* \n:vars\n*/";
        assert_eq!(split(code).rust, code);
        assert_eq!(split("::std::mem::drop(1)").commands, []);
        assert_eq!(split("!(true)").commands, []);
        assert_eq!(split("let ok =\n    !queue.is_empty();").commands, []);
        assert_eq!(split("f();\n!ls").commands.len(), 1);
    }
}
