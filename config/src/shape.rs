//! Reading without giving up.
//!
//! serde stops at the first error. Here reading a value never fails: a
//! [`Field`] remembers what was wrong with it, a [`Table`] the keys it does not
//! know, and both tell the report when they are opened, which is the only way
//! to what they hold. So one pass finds everything, and nothing can be left
//! out of sight: a field that nobody opens is dead code to the compiler.

use crate::other_name;
use crate::report::{At, Problem, Report, did_you_mean, nearest, quote};
use crate::spec;
use serde::de::{
    DeserializeOwned, Deserializer, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use toml::Spanned;

/// The error of something that has been reported already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported;

/// The value of a key that may be absent or wrong.
#[derive(Debug)]
pub(crate) struct Field<T>(State<T>);

#[derive(Debug)]
enum State<T> {
    Absent,
    Wrong(At<Problem>),
    Read(At<T>),
}

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self(State::Absent)
    }
}

impl<T> Field<T> {
    /// The value, if the key is there. What is wrong with it is said of `key`.
    pub(crate) fn get(self, key: &str, report: &mut Report<'_>) -> Result<Option<At<T>>, Reported> {
        match self.0 {
            State::Absent => Ok(None),
            State::Read(value) => Ok(Some(value)),
            State::Wrong(At { value, span }) => {
                report.error(&span, value.of(key));
                Err(Reported)
            }
        }
    }

    /// The value of a key that must be there, in the table at `table`.
    pub(crate) fn need(
        self,
        key: &str,
        missing: &str,
        table: &Range<usize>,
        report: &mut Report<'_>,
    ) -> Result<At<T>, Reported> {
        match self.get(key, report)? {
            Some(value) => Ok(value),
            None => {
                report.error(table, Problem::new(format!("{key} is missing")).hint(missing));
                Err(Reported)
            }
        }
    }

    /// The value, or its default; also when it was wrong, so that judging goes on.
    pub(crate) fn or(self, key: &str, default: T, report: &mut Report<'_>) -> T {
        match self.get(key, report) {
            Ok(Some(value)) => value.value,
            Ok(None) | Err(Reported) => default,
        }
    }

    /// The value, if the key is there and right.
    pub(crate) fn ok(self, key: &str, report: &mut Report<'_>) -> Option<At<T>> {
        self.get(key, report).ok().flatten()
    }
}

impl<'de, T: Shape> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Attempt<T>>::deserialize(deserializer)?;
        let span = spanned.span();
        Ok(Self(match spanned.into_inner().0 {
            Ok(value) => State::Read(At { value, span }),
            Err(value) => State::Wrong(At { value, span }),
        }))
    }
}

/// What a value of the file may look like for a `T`.
pub(crate) trait Shape: Sized {
    /// For people: `a duration such as "250ms"`.
    const EXPECTED: &'static str;

    /// From a string.
    fn text(text: &str) -> Result<Self, Problem> {
        Err(unexpected::<Self>(&format!("the string {}", quote(text))))
    }

    /// From a whole number.
    fn integer(number: i128) -> Result<Self, Problem> {
        Err(unexpected::<Self>(&format!("the number {number}")))
    }

    /// From a yes or no.
    fn boolean(boolean: bool) -> Result<Self, Problem> {
        Err(unexpected::<Self>(&format!("{boolean}")))
    }

    /// From a list.
    fn sequence<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Result<Self, Problem>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Err(unexpected::<Self>("a list")))
    }

    /// From a table.
    fn table<'de, A: MapAccess<'de>>(mut table: A) -> Result<Result<Self, Problem>, A::Error> {
        let mut found = "a table";
        while let Some(key) = table.next_key::<String>()? {
            if key.starts_with("$__toml_private_datetime") {
                found = "a date or time";
            }
            table.next_value::<IgnoredAny>()?;
        }
        Ok(Err(unexpected::<Self>(found)))
    }
}

fn unexpected<T: Shape>(found: &str) -> Problem {
    Problem::new(format!("expected {}, found {found}", T::EXPECTED))
}

/// A value, or what is wrong with it; reading one never fails.
struct Attempt<T>(Result<T, Problem>);

impl<'de, T: Shape> Deserialize<'de> for Attempt<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = deserializer.deserialize_any(ShapeVisitor(PhantomData));
        // An error of serde itself: a number beyond 128 bits, for example.
        Ok(Self(read.unwrap_or_else(|error| {
            Err(Problem::new(format!("expected {}: {}", T::EXPECTED, error.to_string().trim())))
        })))
    }
}

struct ShapeVisitor<T>(PhantomData<T>);

impl<'de, T: Shape> Visitor<'de> for ShapeVisitor<T> {
    type Value = Result<T, Problem>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(T::text(text))
    }

    fn visit_bool<E>(self, boolean: bool) -> Result<Self::Value, E> {
        Ok(T::boolean(boolean))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(T::integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(T::integer(number.into()))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Self::Value, E> {
        Ok(T::integer(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Err(unexpected::<T>(&format!("the number {number:?}"))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::sequence(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
        T::table(table)
    }
}

/// A list; each element is right or wrong on its own.
#[derive(Debug)]
pub(crate) struct List<T>(pub(crate) Vec<Field<T>>);

impl<T: Shape> Shape for List<T> {
    const EXPECTED: &'static str = "a list";

    fn text(text: &str) -> Result<Self, Problem> {
        Err(unexpected::<Self>(&format!("the string {}", quote(text)))
            .hint(format!("in brackets: [{}]", quote(text))))
    }

    fn sequence<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Result<Self, Problem>, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = list.next_element()? {
            fields.push(field);
        }
        Ok(Ok(Self(fields)))
    }

    fn table<'de, A: MapAccess<'de>>(mut table: A) -> Result<Result<Self, Problem>, A::Error> {
        while table.next_key::<String>()?.is_some() {
            table.next_value::<IgnoredAny>()?;
        }
        Ok(Err(unexpected::<Self>("a single table").hint(
            "a list has brackets, [{ ... }]; tables that may stand several times have double ones, [[vip]]",
        )))
    }
}

impl<T> List<T> {
    /// The elements that are right, each at its position; wrong ones are
    /// reported as `key` and leave `None`.
    pub(crate) fn open(self, key: &str, report: &mut Report<'_>) -> Vec<Option<At<T>>> {
        self.0.into_iter().map(|field| field.ok(key, report)).collect()
    }
}

/// A value, or a list of such values.
#[derive(Debug)]
pub(crate) enum OneOrMore<T> {
    One(T),
    More(List<T>),
}

impl<T: Shape> Shape for OneOrMore<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn text(text: &str) -> Result<Self, Problem> {
        T::text(text).map(Self::One)
    }

    fn integer(number: i128) -> Result<Self, Problem> {
        T::integer(number).map(Self::One)
    }

    fn sequence<'de, A: SeqAccess<'de>>(list: A) -> Result<Result<Self, Problem>, A::Error> {
        Ok(List::sequence(list)?.map(Self::More))
    }
}

/// The struct behind a table of the file.
pub(crate) trait Section: DeserializeOwned {
    /// The table as people write it: `[election]`, `[[vip]]`, `a node`.
    const NAME: &'static str;
    /// Keys of a later version, each with the value that says what this
    /// version does anyway, if there is one.
    const LATER: &'static [(&'static str, Option<&'static str>)];

    /// The sections of the same file that know a key.
    fn homes(key: &str) -> Vec<&'static str> {
        spec::homes(key).collect()
    }
}

/// A key that its section does not know.
#[derive(Debug)]
pub(crate) struct Unknown {
    key: At<String>,
    /// Its value, where that is a word or a truth value.
    value: Option<String>,
}

/// Any value, of which only words and truth values are looked at.
#[derive(Deserialize)]
#[serde(untagged)]
enum Anything {
    Word(String),
    Truth(bool),
    Other(IgnoredAny),
}

/// A table with the keys in it that its section does not know.
#[derive(Debug)]
pub(crate) struct Table<S> {
    section: S,
    unknown: Vec<Unknown>,
    known: &'static [&'static str],
}

impl<S: Section> Table<S> {
    /// The section; reports the keys that it does not know.
    pub(crate) fn open(self, report: &mut Report<'_>) -> S {
        for Unknown { key: At { value: key, span }, value } in self.unknown {
            let problem = match S::LATER.iter().find(|(later, _)| *later == key) {
                Some((_, now)) if now.is_some() && value.as_deref() == *now => continue,
                Some((_, now)) => {
                    let hint = now.map_or_else(
                        || "take it out: it would have no effect".to_owned(),
                        |now| format!("take it out, or say {now}, which is what this version does"),
                    );
                    Problem::new(format!("{key} in {} is not supported by this version of vipd", S::NAME))
                        .hint(hint)
                }
                None => Problem::new(format!("unknown key {} in {}", quote(&key), S::NAME))
                    .hint(unknown_key_hint::<S>(&key, self.known)),
            };
            report.error(&span, problem);
        }
        self.section
    }
}

fn unknown_key_hint<S: Section>(key: &str, known: &[&str]) -> String {
    if let Some(hint) = other_name::here(key, known) {
        return hint;
    }
    if let Some(hint) = did_you_mean(key, known.iter().copied()) {
        return hint;
    }
    if let Some(later) = nearest(key, S::LATER.iter().map(|(later, _)| *later)) {
        return format!("\"{later}\" would be the name, but it is not supported by this version of vipd");
    }
    let homes = S::homes(key);
    if !homes.is_empty() {
        return format!("it belongs in {}", homes.join(" or "));
    }
    if let Some(hint) = other_name::elsewhere(key) {
        return hint;
    }
    format!("known here: {}", known.join(", "))
}

impl<S: Section> Shape for Table<S> {
    const EXPECTED: &'static str = "a table";

    fn text(text: &str) -> Result<Self, Problem> {
        Err(unexpected::<Self>(&format!("the string {}", quote(text)))
            .hint(format!("{} holds several keys: {{ key = value, ... }}", S::NAME)))
    }

    fn sequence<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Result<Self, Problem>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Err(unexpected::<Self>("a list").hint(format!("{} stands once: single brackets", S::NAME))))
    }

    fn table<'de, A: MapAccess<'de>>(access: A) -> Result<Result<Self, Problem>, A::Error> {
        let mut unknown = Vec::new();
        let mut known: &'static [&'static str] = &[];
        let section = S::deserialize(Sieve { access, unknown: &mut unknown, known: &mut known })?;
        Ok(Ok(Self { section, unknown, known }))
    }
}

/// Hands a table's known keys to a struct and keeps the others. The struct
/// says which it knows when it asks to be deserialized.
struct Sieve<'a, A> {
    access: A,
    unknown: &'a mut Vec<Unknown>,
    known: &'a mut &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for Sieve<'_, A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_map(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        *self.known = fields;
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Sieve<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.access.next_key::<Spanned<String>>()? {
            if self.known.contains(&key.get_ref().as_str()) {
                return seed.deserialize(key.into_inner().into_deserializer()).map(Some);
            }
            let span = key.span();
            let value = match self.access.next_value::<Anything>() {
                Ok(Anything::Word(word)) => Some(word),
                Ok(Anything::Truth(truth)) => Some(truth.to_string()),
                // Whatever it is: the key is what is refused.
                Ok(Anything::Other(_)) | Err(_) => None,
            };
            self.unknown.push(Unknown { key: At { value: key.into_inner(), span }, value });
        }
        Ok(None)
    }

    fn next_value_seed<V: serde::de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.access.next_value_seed(seed)
    }
}

/// The keys that a section knows, in the order of its struct.
pub(crate) fn keys_of<S: Section>() -> &'static [&'static str] {
    struct Nothing;
    impl<'de> MapAccess<'de> for Nothing {
        type Error = serde::de::value::Error;

        fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(
            &mut self,
            _seed: K,
        ) -> Result<Option<K::Value>, Self::Error> {
            Ok(None)
        }

        fn next_value_seed<V: serde::de::DeserializeSeed<'de>>(
            &mut self,
            _seed: V,
        ) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("an empty table has no value"))
        }
    }
    let mut known: &'static [&'static str] = &[];
    // Only what the struct asks for is wanted, not the struct.
    let _ = S::deserialize(Sieve { access: Nothing, unknown: &mut Vec::new(), known: &mut known });
    known
}
