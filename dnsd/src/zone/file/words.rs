//! What is wrong with an entry of a master file, in words.

use hickory_proto::serialize::txt::parse_ttl;

/// What is said of records in the form of RFC 3597.
const GENERIC: &str = "types as numbers and data as \\# (RFC 3597) cannot be read from a file: write the record \
    in its type's own form; types of private use (TYPE65280 to TYPE65534) can be added by an update";

/// What to say of an entry with a type or data in the form of RFC 3597, section 5.
pub(super) fn of_generic(entry: &str) -> Option<String> {
    let number = |word: &str| {
        let digits = word.get(4..).filter(|_| word.get(..4).is_some_and(|w| w.eq_ignore_ascii_case("type")));
        digits.is_some_and(|digits| digits.parse::<u16>().is_ok())
    };
    let generic = split(entry).iter().any(|word| *word == "\\#" || number(word));
    generic.then(|| GENERIC.into())
}

/// hickory's errors, for people who do not know its insides.
pub(super) fn of(said: &str) -> String {
    const KINDS: [&str; 4] =
        ["lexer error: ", "proto error: ", "network address parse error: ", "error parsing number: "];
    if said.contains("ttl not specified") {
        return "the record has no TTL, and there is no $TTL before it: begin the file with \"$TTL 60\""
            .into();
    }
    if let Some(what) = said.strip_prefix("token is missing: ") {
        return format!("the record's data end before the {what}");
    }
    if let Some(token) = said.strip_prefix("unrecognized token in stream: ") {
        let word = token.split('"').nth(1);
        return word.map_or_else(
            || "the entry ends too soon, or has something that does not belong there".into(),
            |word| format!("{word:?} does not belong there"),
        );
    }
    if let Some(rtype) = said.strip_prefix("unsupported RecordType: ") {
        return format!("records of the type {rtype} are not supported");
    }
    if let Some((_, rtype)) = said.split_once("record type string unknown: ") {
        return format!("there is no type {rtype}");
    }
    KINDS.iter().find_map(|kind| said.strip_prefix(kind)).unwrap_or(said).into()
}

/// Types whose data are so many words.
const WORDS: [(&str, usize); 8] =
    [("A", 1), ("AAAA", 1), ("CNAME", 1), ("NS", 1), ("PTR", 1), ("MX", 2), ("SRV", 4), ("SOA", 7)];

/// What to say of an entry whose data are followed by more.
pub(super) fn superfluous(entry: &str) -> Option<String> {
    if entry.starts_with('$') {
        return None;
    }
    let owner = usize::from(!entry.starts_with(char::is_whitespace));
    let words = split(entry);
    let before = |word: &&str| {
        parse_ttl(word).is_ok() || ["IN", "CH", "HS"].iter().any(|class| word.eq_ignore_ascii_case(class))
    };
    let mut rest = words.into_iter().skip(owner).skip_while(before);
    let rtype = rest.next()?;
    let (name, count) = WORDS.iter().find(|(name, _)| rtype.eq_ignore_ascii_case(name))?;
    let more = rest.nth(*count)?;
    Some(format!(
        "{more:?} is too much: a record of the type {name} ends before it; others need entries of their own"
    ))
}

/// The words of an entry: what is quoted is one, and a comment none.
fn split(entry: &str) -> Vec<&str> {
    let (mut words, mut begun) = (Vec::new(), None);
    let (mut quoted, mut comment, mut escaped) = (false, false, false);
    for (at, byte) in entry.bytes().enumerate() {
        let between = byte.is_ascii_whitespace() || b"();".contains(&byte);
        if comment {
            comment = byte != b'\n';
        } else if escaped || quoted || !between {
            begun = begun.or(Some(at));
            quoted ^= byte == b'"' && !escaped;
        } else {
            words.extend(begun.take().and_then(|begun| entry.get(begun..at)));
            comment = byte == b';';
        }
        escaped = byte == b'\\' && !escaped && !comment;
    }
    words.extend(begun.and_then(|begun| entry.get(begun..)));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_split_into_words() {
        let entry = "a\\;b 5 TXT \"x ; \\\" y\" ( z ; comment ) \"\n last)\n";
        assert_eq!(split(entry), ["a\\;b", "5", "TXT", "\"x ; \\\" y\"", "z", "last"]);
        assert_eq!(split("  ; nothing (\n"), [""; 0]);
    }

    #[test]
    fn only_what_is_too_much_is() {
        let wrong = |entry: &str| superfluous(entry).is_some();
        for good in [
            "a A 10.0.0.1",
            "a 5 in a 10.0.0.1 ; 10.0.0.2",
            " IN 1h AAAA fd77::1",
            "a TXT a b c",
            "@ SOA ns1 host (\n1 2 3 ; x\n4 5 )\n",
            "$ORIGIN a b",
            "",
            "a",
            "in A 10.0.0.1",
            "5 5 A 10.0.0.1",
        ] {
            assert!(!wrong(good), "{good}");
        }
        assert!(wrong("a A 10.0.0.1 10.0.0.2") && wrong(" MX 10 a b") && wrong("in mx ( 10 a\n b )"));
        assert!(wrong("@ SOA ns1 host 1 2 3 4 5 6") && wrong("a CNAME b c"));
    }
}
