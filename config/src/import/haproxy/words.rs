//! Lines to words, as HAProxy reads them (its configuration manual, chapter 2).

/// The words of a line, without its comment. Quotes and backslashes are resolved.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut single, mut double) = (false, false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if !single => {
                let escaped = match chars.next() {
                    Some('r') => '\r',
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('x') => hexadecimal(&mut chars),
                    Some(other) => other,
                    None => '\\',
                };
                word.get_or_insert_default().push(escaped);
            }
            '\'' if !double => {
                single = !single;
                word.get_or_insert_default();
            }
            '"' if !single => {
                double = !double;
                word.get_or_insert_default();
            }
            '#' if !single && !double => break,
            c if c.is_whitespace() && !single && !double => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The character after `\x`; `x` itself where no two digits follow.
fn hexadecimal(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> char {
    let mut ahead = chars.clone();
    let digits = (ahead.next().and_then(|c| c.to_digit(16)), ahead.next().and_then(|c| c.to_digit(16)));
    match digits {
        (Some(high), Some(low)) => {
            *chars = ahead;
            u8::try_from(high * 16 + low).map_or('x', char::from)
        }
        (Some(_) | None, _) => 'x',
    }
}

/// A time in milliseconds, rounded up; without a unit it is in milliseconds.
pub(super) fn time(text: &str) -> Option<u64> {
    time_in(text, 1000)
}

/// The same where a number alone counts units of `default` microseconds.
pub(super) fn time_in(text: &str, default: u64) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let micros: u64 = match unit {
        "" => default,
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()?.checked_mul(micros)?.div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_escapes_and_comments() {
        assert_eq!(
            words("  server db1 10.0.0.1:3306 check # the first"),
            ["server", "db1", "10.0.0.1:3306", "check"]
        );
        assert_eq!(words(r#"tcp-check send PING\r\n"#), ["tcp-check", "send", "PING\r\n"]);
        assert_eq!(words(r#"a "b # c" 'd\n' e\ f \x41"#), ["a", "b # c", "d\\n", "e f", "A"]);
        assert_eq!(words("# all of it"), Vec::<String>::new());
        assert_eq!(words(r"trailing \"), ["trailing", "\\"]);
        assert_eq!(words(r"\xzz \x4"), ["xzz", "x4"]);
    }

    #[test]
    fn times() {
        let read = ["5s", "5000", "1m", "250ms", "1d", "1us", "x", "5 s", ""].map(time);
        let wanted =
            [Some(5000), Some(5000), Some(60_000), Some(250), Some(86_400_000), Some(1), None, None, None];
        assert_eq!(read, wanted);
    }
}
