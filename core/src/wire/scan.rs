//! A look at the framing of an encoded message before anything is decoded.
//!
//! Two bytes on the wire can make an element of hundreds of bytes in memory. Hence the elements of a list from outside
//! are counted first, and handed out one by one as slices of the received buffer.

use prost::encoding::{WireType, decode_key, decode_varint};

/// Why bytes are not a message that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    #[error("the message is malformed or ends early")]
    Malformed,
    #[error("more than {max} {what}")]
    TooMany { what: &'static str, max: usize },
}

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Varint(u64),
    /// Four or eight bytes, as they are.
    Fixed(&'a [u8]),
    /// Bytes, text or a message.
    Bytes(&'a [u8]),
}

/// The fields of one message in the order of the wire. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The values of the length-delimited field `number`.
    pub fn all(self, number: u32) -> impl Iterator<Item = Result<&'a [u8], ScanError>> {
        self.filter_map(move |field| match field {
            Ok((found, Value::Bytes(value))) if found == number => Some(Ok(value)),
            // The field's number with another wire type.
            Ok((found, _)) if found == number => Some(Err(ScanError::Malformed)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    fn take_field(&mut self) -> Option<(u32, Value<'a>)> {
        let (number, wire_type) = decode_key(&mut self.rest).ok()?;
        let value = match wire_type {
            WireType::Varint => Value::Varint(decode_varint(&mut self.rest).ok()?),
            WireType::SixtyFourBit => Value::Fixed(self.take(8)?),
            WireType::ThirtyTwoBit => Value::Fixed(self.take(4)?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.rest).ok()?;
                Value::Bytes(self.take(length)?)
            }
            // Groups nest without bound, and none of our messages has one.
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        Some((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.take_field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or(ScanError::Malformed))
    }
}

/// Checks that `message` has at most `max` elements at `path`, over all messages on the way there. `path` is a
/// sequence of field numbers: `[3, 2]` are the fields 2 of all messages in field 3.
pub fn at_most(message: &[u8], path: &[u32], max: usize, what: &'static str) -> Result<(), ScanError> {
    count(message, path, &mut 0, max, what)
}

/// Descends as often as `path` is long, which we choose and nobody else.
fn count(message: &[u8], path: &[u32], seen: &mut usize, max: usize, what: &'static str) -> Result<(), ScanError> {
    let Some((number, inner)) = path.split_first() else { return Ok(()) };
    for value in Fields::new(message).all(*number) {
        let value = value?;
        if inner.is_empty() {
            *seen += 1;
            if *seen > max {
                return Err(ScanError::TooMany { what, max });
            }
        } else {
            count(value, inner, seen, max, what)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_the_order_of_the_wire() {
        // 1: varint 150, 2: "ab", 3: fixed32, 4: fixed64
        let message =
            [0x08, 0x96, 0x01, 0x12, 0x02, b'a', b'b', 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8].as_slice();
        let fields: Vec<_> = Fields::new(message).map(|field| field.expect("well formed")).collect();
        assert_eq!(
            fields,
            [
                (1, Value::Varint(150)),
                (2, Value::Bytes(b"ab")),
                (3, Value::Fixed(&[1, 2, 3, 4])),
                (4, Value::Fixed(&[1, 2, 3, 4, 5, 6, 7, 8])),
            ]
        );
    }

    #[test]
    fn broken_framing_ends_the_scan_with_one_error() {
        let table: [&[u8]; 6] = [
            &[0x0a, 0x02, 1],                                                    // ends early
            &[0x0b, 0x0c],                                                       // a group
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], // longer than any buffer
            &[0x0f],                                                             // no such wire type
            &[0x02, 0x00],                                                       // field 0
            &[0x80],                                                             // half a key
        ];
        for message in table {
            let fields: Vec<_> = Fields::new(message).collect();
            assert_eq!(fields, [Err(ScanError::Malformed)], "{message:?}");
        }
    }

    #[test]
    fn nested_elements_are_counted_together() {
        // Two messages in field 3, with two and one elements in field 2.
        let message = [0x1a, 4, 0x12, 0, 0x12, 0, 0x1a, 2, 0x12, 0];
        assert_eq!(at_most(&message, &[3, 2], 3, "elements"), Ok(()));
        assert_eq!(at_most(&message, &[3, 2], 2, "elements"), Err(ScanError::TooMany { what: "elements", max: 2 }));
        assert_eq!(at_most(&message, &[3], 2, "messages"), Ok(()));
        assert_eq!(at_most(&message, &[3, 2, 1], 0, "grandchildren"), Ok(()));
    }

    #[test]
    fn an_element_of_another_wire_type_is_malformed() {
        assert_eq!(at_most(&[0x18, 1], &[3], 9, "messages"), Err(ScanError::Malformed));
    }
}
