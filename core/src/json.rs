//! JSON for types of the tendermint crate, which comes from strangers.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor},
};

/// Reads a type that decodes base64 with a decoder which panics where padding stands in place of a whole group or within
/// one (`subtle-encoding` 0.5, in the types of the tendermint crate). Such a text is refused before it gets there.
///
/// # Errors
/// If `bytes` are no JSON, no `T`, or hold such a text anywhere.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice::<WithoutOddPadding>(bytes)?;
    serde_json::from_slice(bytes)
}

/// Any JSON in which no text has padding anywhere but at the end of a group that ends it.
struct WithoutOddPadding;

impl<'de> Deserialize<'de> for WithoutOddPadding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for WithoutOddPadding {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64 that is padded at its end only")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self, E> {
        let last_group = text.as_bytes().chunks(4).next_back().unwrap_or_default();
        let is_odd = last_group.starts_with(b"=") || text.trim_end_matches('=').contains('=');
        if is_odd { Err(E::invalid_value(Unexpected::Str(text), &self)) } else { Ok(self) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self, A::Error> {
        while sequence.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_in_place_of_base64_is_refused_and_anything_else_is_not() {
        for text in [r#""""#, r#""AQ==""#, r#""AQI=""#, r#""AQID""#, r#"{"=": [1, -1, 0.5, null, true, "a b"]}"#] {
            assert!(from_slice::<serde_json::Value>(text.as_bytes()).is_ok(), "{text}");
        }
        for text in [r#""=""#, r#""====""#, r#""AQID=""#, r#""AQ=C""#, r#"{"a": ["AQID====", 5]}"#, r#""\u003d""#] {
            assert!(from_slice::<serde_json::Value>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
