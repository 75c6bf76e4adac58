//! JSON as peers really write it: 64-bit numbers as numbers or as text, lists as `null`, odd elements among good ones.

use std::{fmt, marker::PhantomData};

use base64::Engine as _;
use bytes::Bytes;
use downbeat_core::json;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, SeqAccess, Unexpected, Visitor},
};
use serde_json::value::RawValue;

/// A number, or its decimal digits as text.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Number;

    impl Visitor<'_> for Number {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number from 0 to 2^64 - 1 or its digits as text")
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
            Ok(value)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_any(Number)
}

/// Standard base64 with padding.
pub(crate) fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    struct Base64;

    impl Visitor<'_> for Base64 {
        type Value = Bytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("base64")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
            base64::engine::general_purpose::STANDARD.decode(text).map(Bytes::from).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Base64)
}

/// A list of which `null` is the empty form.
pub(crate) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A list whose elements are read one by one: those that cannot be read are counted, and `null` is the empty list.
#[derive(Debug)]
pub(crate) struct Readable<T> {
    pub(crate) elements: Vec<T>,
    pub(crate) unreadable: u32,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Readable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T>(PhantomData<T>);

        impl<'de, T: DeserializeOwned> Visitor<'de> for Elements<T> {
            type Value = Readable<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list or null")
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Readable { elements: Vec::new(), unreadable: 0 })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut list = Readable { elements: Vec::new(), unreadable: 0 };
                while let Some(raw) = sequence.next_element::<&'de RawValue>()? {
                    match serde_json::from_str(raw.get()) {
                        Ok(element) => list.elements.push(element),
                        Err(_) => list.unreadable = list.unreadable.saturating_add(1),
                    }
                }
                Ok(list)
            }
        }

        deserializer.deserialize_any(Elements(PhantomData))
    }
}

/// A value that [`json::from_slice`] reads.
#[derive(Debug)]
pub(crate) struct Guarded<T>(pub(crate) T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Guarded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?;
        json::from_slice(raw.get().as_bytes()).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Height {
        #[serde(deserialize_with = "number")]
        height: u64,
    }

    #[test]
    fn heights_are_read_as_numbers_and_as_text() {
        for text in [r#"{"height": 7}"#, r#"{"height": "7"}"#] {
            assert_eq!(serde_json::from_str::<Height>(text).unwrap().height, 7);
        }
        for text in [r#"{"height": -7}"#, r#"{"height": "x"}"#, r#"{"height": 7.5}"#, r#"{"height": null}"#] {
            serde_json::from_str::<Height>(text).unwrap_err();
        }
    }

    #[test]
    fn an_odd_element_does_not_spoil_its_neighbours() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!(r#"[{{"height": 1}}, {{"height": null}}, 5, "x", {{}}, {deep}, {{"height": "2"}}]"#);
        let list: Readable<Height> = serde_json::from_str(&text).unwrap();
        assert_eq!(list.elements.iter().map(|e| e.height).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(list.unreadable, 5);
        let none: Readable<Height> = serde_json::from_str("null").unwrap();
        assert!(none.elements.is_empty() && none.unreadable == 0);
    }
}
