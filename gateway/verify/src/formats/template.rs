//! Jinja templates of chats: whether one reaches for Python's insides, from where it runs code in a loader whose
//! sandbox is none.
//!
//! No Jinja is parsed: a lexer that differed from Jinja's in one comment would be blind behind it. What is refused is
//! refused wherever it stands, and is such that prose seldom has it.

/// Words by which a template climbs out of a sandbox that is not one.
const WORDS: [&str; 8] = [
    "__class__",
    "__globals__",
    "__subclasses__",
    "__builtins__",
    "__import__",
    "__mro__",
    "__init__",
    "__getattribute__",
];

/// What is in a template that climbs out, if it does.
pub(crate) fn climbs(text: &str) -> Option<&'static str> {
    // Jinja joins neighbouring literals, `~`, and lists by a filter; without these marks such a split word shows too.
    let joined: String = text
        .chars()
        .filter(|c| !matches!(c, '\'' | '"' | '~' | '+' | ',' | ' ' | '\n' | '\t'))
        .collect();
    let word = WORDS
        .into_iter()
        .find(|word| text.contains(word) || joined.contains(word));
    word.or_else(|| text.char_indices().find_map(|(at, c)| mark(text.get(at..)?, c)))
}

/// Whether a text begins with what no template for chats needs.
fn mark(text: &str, first: char) -> Option<&'static str> {
    let rest = text.get(first.len_utf8()..).unwrap_or_default();
    let next = rest.trim_start();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    match first {
        '|' if next
            .strip_prefix("attr")
            .is_some_and(|after| !after.starts_with(is_word)) =>
        {
            Some("the filter `attr`")
        }
        // An attribute; prose has `. _this_`.
        '.' if next.starts_with("__")
            || rest
                .strip_prefix('_')
                .is_some_and(|after| after.starts_with(char::is_alphabetic)) =>
        {
            Some("an attribute that begins with `_`")
        }
        '[' if next
            .strip_prefix(['\'', '"'])
            .is_some_and(|key| key.trim_start().starts_with('_')) =>
        {
            Some("a key that begins with `_`")
        }
        '\'' | '"' if rest.starts_with("__") => Some("a text that begins with `__`"),
        '_' if rest.starts_with("_'") || rest.starts_with("_\"") => Some("a text that ends with `__`"),
        '%' if rest.starts_with(['c', 'C']) && rest[1..].starts_with(['%', '\'', '"']) => {
            Some("a character by its number")
        }
        '\\' => escape(rest),
        _ => None,
    }
}

/// Escapes by which a text hides what it says.
fn escape(rest: &str) -> Option<&'static str> {
    let hex = |digits: usize| {
        rest.get(1..=digits)
            .is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let hides = match rest.bytes().next()? {
        b'x' => hex(2),
        b'u' => hex(4),
        b'U' => hex(8),
        b'N' => rest[1..].starts_with('{'),
        b'0'..=b'7' => true,
        _ => false,
    };
    hides.then_some("an escape that hides a character")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_out_are_seen_however_they_are_spelt() {
        for text in [
            "{{ ''.__class__ }}",
            r#"{{ ""|attr("\x5f\x5fclass\x5f\x5f") }}"#,
            "{{ x | attr ( y ) }}",
            "{{ x[['__cla','ss__']|join] }}",
            "{{ x['__cla' ~ 'ss__'] }}",
            "{{ x . __foo }}",
            "{{ self._TemplateReference__context }}",
            r#"{{ x["_y"] }}"#,
            r"{{ x['\137\137class'] }}",
            r"{{ x['\u005f'] }}",
            r"{{ x['\N{LOW LINE}'] }}",
            "{{ '%c%c' % (95, 95) }}",
        ] {
            assert!(climbs(text).is_some(), "{text}");
        }
    }

    #[test]
    fn templates_of_models_pass() {
        for text in [
            "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message.content|trim }}{% endfor %}",
            "{{ raise_exception('a') if not loop.first }}{{ messages | map(attribute='role') | join(', ') }}",
            "{%- set ns = namespace(is_first=false, tool_calls=[]) -%}{{ ns.tool_calls | tojson(indent=4) }}",
            "Write **bold**, __strong__ or _this_. _Now_ write `\\n`, 100 %, and \\boxed{x}.",
            "{{ message['tool_calls'][0].function.arguments.split('</think>')[-1].lstrip('\\n') }}",
            "{{ '| attribute |' }}{{ 'call_' ~ id }}{{ name.replace('_', ' ') }}",
        ] {
            assert_eq!(climbs(text), None, "{text}");
        }
    }
}
