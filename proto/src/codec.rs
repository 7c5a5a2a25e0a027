//! The codec of all services: protobuf, but no message is decoded that is made of too many parts.
//!
//! An empty part of a list takes two bytes on the wire and a hundred in memory. A message of the longest size made of
//! such would take some hundred times its length, before any limit of [`crate::convert`] is looked at. So its parts
//! are counted first, which allocates nothing.
//!
//! Messages without data of chunks are put together, and taken apart, in memory of their own kind: prost works by single
//! bytes and numbers, which the buffers of a connection make several times as dear as a plain slice does.

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use dfs_core::limits::{MESSAGE_PART_BYTES, MESSAGE_PARTS};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::Malformed;

/// What there is to count in a message: its fields that are messages, and those that are lists of bytes or strings.
#[derive(Debug)]
pub struct Shape(pub(crate) &'static [(u32, Option<&'static Shape>)]);

/// A generated message.
pub trait Shaped {
    /// Its shape.
    const SHAPE: &'static Shape;
    /// Whether bytes of chunks can be in it, which are not to be copied.
    const HOLDS_DATA: bool;
}

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// What a part takes on the wire at least: its tag and its length.
const PART_BYTES_MIN: usize = 2;

/// Refuses a message of more than [`MESSAGE_PARTS`] parts, unless they are as long as those of long messages are.
///
/// # Errors
/// Then, and when one so long is not protobuf (groups, which nobody sends, are not either).
pub fn check<M: Shaped>(message: &[u8]) -> Result<(), Malformed> {
    if message.len() / PART_BYTES_MIN <= MESSAGE_PARTS {
        // Whatever it is made of. Whether it is a message at all, the decoder says.
        return Ok(());
    }
    let most = MESSAGE_PARTS + message.len() / MESSAGE_PART_BYTES;
    let parts = count(M::SHAPE, message, most).ok_or(Malformed { what: "not a message" })?;
    crate::convert::check(parts <= most, "too many parts in a message")
}

/// The number of parts, or one that is over `most`; `None` if it is no message.
fn count(shape: &Shape, mut rest: &[u8], most: usize) -> Option<usize> {
    let mut parts = 0;
    while !rest.is_empty() && parts <= most {
        let (field, wire) = decode_key(&mut rest).ok()?;
        let skip = match wire {
            WireType::Varint => {
                decode_varint(&mut rest).ok()?;
                0
            }
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut rest).ok()?).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let (value, behind) = rest.split_at_checked(skip)?;
        rest = behind;
        if let Some((_, inner)) = shape.0.iter().find(|(number, _)| *number == field) {
            parts += 1;
            if let (Some(inner), WireType::LengthDelimited) = (inner, wire) {
                parts += count(inner, value, most - most.min(parts))?;
            }
        }
    }
    Some(parts)
}

/// Sends `T` and receives `U`.
#[derive(Clone, Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Shaped + Send + 'static,
    U: Message + Shaped + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = WholeEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        WholeEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstCodec::<T, U>::default().decoder())
    }
}

/// Makes room for the whole message at first: by itself the buffer grows by doubling, and copies what it has each time.
#[derive(Clone, Debug)]
pub struct WholeEncoder<T>(PhantomData<T>);

impl<T: Message + Shaped> Encoder for WholeEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let len = item.encoded_len();
        // Not `encode`, which would find out the length again.
        if T::HOLDS_DATA {
            buf.reserve(len);
            item.encode_raw(buf);
        } else {
            let mut whole = Vec::with_capacity(len);
            item.encode_raw(&mut whole);
            buf.put_slice(&whole);
        }
        Ok(())
    }
}

/// Counts, then decodes.
#[derive(Clone, Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Shaped + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // It lies in one piece: what does not would be counted too low.
        let whole = buf.chunk();
        if whole.len() < buf.remaining() {
            return Err(Status::internal("a message in pieces"));
        }
        check::<U>(whole)?;
        if U::HOLDS_DATA {
            return self.0.decode(buf);
        }
        let message = U::decode(whole).map_err(|e| Status::internal(e.to_string()))?;
        buf.advance(buf.remaining());
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    /// A field of so many bytes.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        prost::encoding::encode_varint(value.len() as u64, &mut bytes);
        bytes.extend(value);
        bytes
    }

    #[test]
    fn parts_are_counted_wherever_they_are() {
        let chunk = v1::ChunkRef { id: vec![7; 32], len: 5, slot: 3 };
        let ack = v1::Ack { orders: Some(v1::OrderNo::default()), ..Default::default() };
        let put = v1::Put { chunk: Some(chunk), acks: vec![ack; 3] };
        let commit = v1::Commit { puts: vec![put; 10], ..Default::default() };
        assert_eq!(count(v1::Commit::SHAPE, &commit.encode_to_vec(), usize::MAX), Some(10 * 8));
        let call = v1::Call { id: 1, body: Some(v1::call::Body::Commit(commit)) };
        let request = v1::SessionRequest { calls: vec![call; 2], not_held: vec![1; 100], ..Default::default() };
        assert_eq!(count(v1::SessionRequest::SHAPE, &request.encode_to_vec(), usize::MAX), Some(2 * 82));
        let known = v1::KnownChunk { missed: vec![vec![1; 16]; 4], ..Default::default() };
        assert_eq!(count(v1::KnownChunk::SHAPE, &known.encode_to_vec(), usize::MAX), Some(4));
    }

    #[test]
    fn a_message_of_empty_parts_is_refused_before_it_takes_memory() {
        let groups = |n| field(1, &field(2, &field(5, &[]).repeat(n)));
        let call = |n| field(2, &groups(n)[2..]);
        assert_eq!(check::<v1::SessionRequest>(&call(1)), Ok(()));
        let commit = field(5, &[]).repeat(MESSAGE_PARTS * 2);
        assert_eq!(check::<v1::Commit>(&commit), Err(Malformed { what: "too many parts in a message" }));
        let deep = field(2, &field(2, &commit));
        assert_eq!(check::<v1::SessionRequest>(&deep), Err(Malformed { what: "too many parts in a message" }));
        let long = field(5, &[0; 64]).repeat(MESSAGE_PARTS);
        assert!(check::<v1::PutBatchRequest>(&long).is_ok(), "no part of that message");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        // Short ones are the decoder's to refuse.
        let long = field(15, &vec![0; 2 * MESSAGE_PARTS]);
        assert_eq!(check::<v1::Commit>(&long), Ok(()));
        for bytes in [&[0x0b][..], &[0x0c], &[0x0a, 5, 1], &[0x0a], &[0xff; 12], &[0x0e], &[0]] {
            let whole = [&long, bytes].concat();
            assert_eq!(check::<v1::Commit>(&whole), Err(Malformed { what: "not a message" }), "{bytes:?}");
            assert!(v1::Commit::decode(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(check::<v1::Commit>(&[]), Ok(()));
    }

    #[test]
    fn data_of_chunks_is_known_wherever_it_is() {
        let with = [v1::PutRequest::HOLDS_DATA, v1::PutBatchRequest::HOLDS_DATA, v1::ReadBatchResponse::HOLDS_DATA];
        assert_eq!(with, [true; 3]);
        let without = [v1::Dir::HOLDS_DATA, v1::SessionRequest::HOLDS_DATA, v1::ReadBatchRequest::HOLDS_DATA];
        assert_eq!(without, [false; 3]);
    }
}
