//! The order-preserving key codec.
//!
//! Encoded keys compare as bytes exactly as the values compare, part by part, so that a scan of a tree walks its rows
//! in order, and all rows that start with the same parts lie together. Integers are big-endian; strings are terminated,
//! with NUL escaped, so that no string is a prefix of another's encoding; tuples are their parts one after another.
//!
//! Invariants (property-tested in `tests/store.rs`): `decode(encode(k)) == k`, and `encode(a) < encode(b)` exactly when
//! `a < b`. Deliberately absent: anything of variable width that is not terminated, and floating point.

use ruma::{
    DeviceId, EventId, OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId,
    RoomAliasId, RoomId, ServerName, UserId,
};

use crate::ids::{EventNo, Position, RoomNo, StateKeyNo, StateNo};

/// What can be written as (a part of) a key: the owned type and its borrowed forms.
pub trait Encode {
    /// The type that decoding the key gives.
    type Owned;

    /// Appends the key's bytes to `out`.
    fn encode(&self, out: &mut Vec<u8>);
}

/// What can be read back from a key.
pub trait Key: Encode<Owned = Self> + Sized {
    /// Takes the key from the front of `input`; `None` if `input` does not start with one.
    fn decode(input: &mut &[u8]) -> Option<Self>;
}

/// `Self`'s encoding starts with a whole encoding of `P`: a scan for `P` finds `Self`.
pub trait StartsWith<P> {}

impl<T: Encode + ?Sized> Encode for &T {
    type Owned = T::Owned;

    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

macro_rules! integer_keys {
    ($($int:ty),*) => {$(
        impl Encode for $int {
            type Owned = $int;

            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
        }

        impl Key for $int {
            fn decode(input: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = input.split_first_chunk()?;
                *input = rest;
                Some(<$int>::from_be_bytes(*bytes))
            }
        }
    )*};
}
integer_keys!(u8, u16, u32, u64);

/// Signed integers have their sign bit flipped, which puts negative ones first.
impl Encode for i64 {
    type Owned = i64;

    fn encode(&self, out: &mut Vec<u8>) {
        (self.cast_unsigned() ^ (1 << 63)).encode(out);
    }
}

impl Key for i64 {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        Some((u64::decode(input)? ^ (1 << 63)).cast_signed())
    }
}

impl Encode for bool {
    type Owned = bool;

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Key for bool {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        match u8::decode(input)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

macro_rules! number_keys {
    ($($number:ident),*) => {$(
        impl Encode for $number {
            type Owned = $number;

            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }
        }

        impl Key for $number {
            fn decode(input: &mut &[u8]) -> Option<Self> {
                u64::decode(input).map(Self)
            }
        }
    )*};
}
number_keys!(RoomNo, EventNo, StateKeyNo, StateNo, Position);

const ESCAPE: u8 = 0x00;
const ESCAPED_NUL: u8 = 0xFF;
const TERMINATOR: u8 = 0x01;

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 2);
    for &byte in bytes {
        out.push(byte);
        if byte == ESCAPE {
            out.push(ESCAPED_NUL);
        }
    }
    out.extend_from_slice(&[ESCAPE, TERMINATOR]);
}

fn decode_bytes(input: &mut &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let stop = input.iter().position(|&byte| byte == ESCAPE)?;
        bytes.extend_from_slice(input.get(..stop)?);
        let mark = *input.get(stop + 1)?;
        *input = input.get(stop + 2..)?;
        match mark {
            ESCAPED_NUL => bytes.push(ESCAPE),
            TERMINATOR => return Some(bytes),
            _ => return None,
        }
    }
}

impl Encode for str {
    type Owned = String;

    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), out);
    }
}

impl Encode for String {
    type Owned = String;

    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().encode(out);
    }
}

impl Key for String {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        String::from_utf8(decode_bytes(input)?).ok()
    }
}

impl Encode for [u8] {
    type Owned = Vec<u8>;

    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self, out);
    }
}

impl Encode for Vec<u8> {
    type Owned = Vec<u8>;

    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self, out);
    }
}

impl Key for Vec<u8> {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        decode_bytes(input)
    }
}

macro_rules! id_keys {
    ($($id:ident => $owned:ident),*) => {$(
        impl Encode for $id {
            type Owned = $owned;

            fn encode(&self, out: &mut Vec<u8>) {
                self.as_str().encode(out);
            }
        }

        impl Encode for $owned {
            type Owned = $owned;

            fn encode(&self, out: &mut Vec<u8>) {
                self.as_str().encode(out);
            }
        }

        impl Key for $owned {
            fn decode(input: &mut &[u8]) -> Option<Self> {
                String::decode(input)?.try_into().ok()
            }
        }
    )*};
}
id_keys!(
    UserId => OwnedUserId,
    RoomId => OwnedRoomId,
    EventId => OwnedEventId,
    RoomAliasId => OwnedRoomAliasId,
    ServerName => OwnedServerName
);

impl Encode for DeviceId {
    type Owned = OwnedDeviceId;

    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().encode(out);
    }
}

impl Encode for OwnedDeviceId {
    type Owned = OwnedDeviceId;

    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().encode(out);
    }
}

impl Key for OwnedDeviceId {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        String::decode(input).map(Into::into)
    }
}

/// Absent sorts before present.
impl<T: Encode> Encode for Option<T> {
    type Owned = Option<T::Owned>;

    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }
}

impl<T: Key> Key for Option<T> {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        Some(if bool::decode(input)? { Some(T::decode(input)?) } else { None })
    }
}

impl Encode for () {
    type Owned = ();

    fn encode(&self, _: &mut Vec<u8>) {}
}

impl Key for () {
    fn decode(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

macro_rules! tuple_keys {
    ($($part:ident),+) => {
        impl<$($part: Encode),+> Encode for ($($part,)+) {
            type Owned = ($($part::Owned,)+);

            #[allow(non_snake_case)] // the type parameters' names serve for the parts
            fn encode(&self, out: &mut Vec<u8>) {
                let ($($part,)+) = self;
                $($part.encode(out);)+
            }
        }

        impl<$($part: Key),+> Key for ($($part,)+) {
            fn decode(input: &mut &[u8]) -> Option<Self> {
                Some(($($part::decode(input)?,)+))
            }
        }
    };
}
tuple_keys!(A);
tuple_keys!(A, B);
tuple_keys!(A, B, C);
tuple_keys!(A, B, C, D);
tuple_keys!(A, B, C, D, E);

impl<K> StartsWith<()> for K {}
impl<A, B> StartsWith<(A,)> for (A, B) {}
impl<A, B, C> StartsWith<(A,)> for (A, B, C) {}
impl<A, B, C> StartsWith<(A, B)> for (A, B, C) {}
impl<A, B, C, D> StartsWith<(A,)> for (A, B, C, D) {}
impl<A, B, C, D> StartsWith<(A, B)> for (A, B, C, D) {}
impl<A, B, C, D> StartsWith<(A, B, C)> for (A, B, C, D) {}
impl<A, B, C, D, E> StartsWith<(A,)> for (A, B, C, D, E) {}
impl<A, B, C, D, E> StartsWith<(A, B)> for (A, B, C, D, E) {}
impl<A, B, C, D, E> StartsWith<(A, B, C)> for (A, B, C, D, E) {}
impl<A, B, C, D, E> StartsWith<(A, B, C, D)> for (A, B, C, D, E) {}
