//! What peers ask each other for: the messages of one height. Protobuf behind a length, one request and one response per
//! stream, both bounded before anything is read.

use std::io;

use bytes::Bytes;
use libp2p::{
    StreamProtocol,
    futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    request_response,
};
use prost::Message as _;

/// Topics in one request.
pub(super) const TOPICS_MAX: usize = 128;

/// Bytes of one request: a height and that many names.
const REQUEST_BYTES_MAX: usize = TOPICS_MAX * 160;

/// Asks for the messages of `height` in the named topics.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Request {
    #[prost(uint64, tag = "1")]
    pub(super) height: u64,
    #[prost(string, repeated, tag = "2")]
    pub(super) topics: Vec<String>,
}

/// What is held of the height; entries in any order, each topic at most once.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Response {
    /// Asked too often: the peer may come again later.
    #[prost(bool, tag = "1")]
    pub(super) is_busy: bool,
    /// What heights are held at all; both zero for none.
    #[prost(uint64, tag = "2")]
    pub(super) lowest: u64,
    #[prost(uint64, tag = "3")]
    pub(super) highest: u64,
    #[prost(message, repeated, tag = "4")]
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) topic: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) message: Bytes,
}

pub(super) type Behaviour = request_response::Behaviour<Codec>;
pub(super) type Event = request_response::Event<Request, Response>;

/// Reads and writes both, within bounds.
#[derive(Clone, Debug)]
pub(super) struct Codec {
    pub(super) response_bytes_max: usize,
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Request> {
        decode(&read(io, REQUEST_BYTES_MAX).await?)
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Response> {
        // Names and lengths beside the messages.
        decode(&read(io, self.response_bytes_max + REQUEST_BYTES_MAX).await?)
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()> {
        write(io, &request.encode_to_vec()).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Response,
    ) -> io::Result<()> {
        write(io, &response.encode_to_vec()).await
    }
}

fn decode<T: prost::Message + Default>(bytes: &[u8]) -> io::Result<T> {
    T::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T, max: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length);
    let too_long = || io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes; at most {max} are read"));
    let length = usize::try_from(length).ok().filter(|length| *length <= max).ok_or_else(too_long)?;
    let mut bytes = Vec::new();
    // Memory is taken as bytes come, not as they are announced.
    let read = io.take(u64::try_from(length).unwrap_or(u64::MAX)).read_to_end(&mut bytes).await?;
    if read == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(bytes).await?;
    io.close().await
}

#[cfg(test)]
mod tests {
    use libp2p::{futures::io::Cursor, request_response::Codec as _};

    use super::*;

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/x");

    #[tokio::test]
    async fn requests_and_responses_are_read_as_they_were_written() {
        let mut codec = Codec { response_bytes_max: 100 };
        let request = Request { height: 7, topics: vec!["/a".to_owned(), "/b".to_owned()] };
        let entry = Entry { topic: "/a".to_owned(), message: Bytes::from_static(&[9; 100]) };
        let response = Response { is_busy: false, lowest: 1, highest: 8, entries: vec![entry] };
        let mut wire = Cursor::new(Vec::new());
        codec.write_request(&PROTOCOL, &mut wire, request.clone()).await.unwrap();
        wire.set_position(0);
        assert_eq!(codec.read_request(&PROTOCOL, &mut wire).await.unwrap(), request);
        let mut wire = Cursor::new(Vec::new());
        codec.write_response(&PROTOCOL, &mut wire, response.clone()).await.unwrap();
        wire.set_position(0);
        assert_eq!(codec.read_response(&PROTOCOL, &mut wire).await.unwrap(), response);
    }

    #[tokio::test]
    async fn what_is_too_long_or_cut_short_or_no_protobuf_is_an_error() {
        let mut codec = Codec { response_bytes_max: 100 };
        let endless = u32::try_from(REQUEST_BYTES_MAX + 1).unwrap().to_be_bytes();
        for bytes in [&b""[..], &[0, 0, 0], &[0, 0, 0, 2, 8], &[0, 0, 0, 1, 0xff], &endless, &[0xff; 64]] {
            let mut wire = Cursor::new(bytes.to_vec());
            assert!(codec.read_request(&PROTOCOL, &mut wire).await.is_err(), "{bytes:?}");
        }
    }
}
