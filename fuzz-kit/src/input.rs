//! An input taken apart from its front. What is not there is zero, so that every input means something.

/// The rest of an input.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of it.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most `n` bytes.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes(N);
        std::array::from_fn(|i| taken.get(i).copied().unwrap_or(0))
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// Two bytes, big-endian as all of these.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// Two bytes that say how many, and so many bytes if there are as many.
    pub fn piece(&mut self) -> &'a [u8] {
        let n = self.u16();
        self.bytes(n.into())
    }

    /// Appends what [`Input::piece`] reads; what is longer is cut.
    pub fn put_piece(to: &mut Vec<u8>, piece: &[u8]) {
        let n = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        to.extend(n.to_be_bytes());
        to.extend(&piece[..n.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_zero() {
        let mut data = vec![7, 0, 1];
        Input::put_piece(&mut data, b"abc");
        data.push(9);
        let mut input = Input::new(&data);
        assert_eq!((input.byte(), input.u16(), input.piece(), input.u32()), (7, 1, &b"abc"[..], 9 << 24));
        assert_eq!((input.is_empty(), input.u64(), input.piece(), input.rest()), (true, 0, &[][..], &[][..]));
    }
}
