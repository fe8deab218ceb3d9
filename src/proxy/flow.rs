//! One direction of a relay as a pure state machine: source -> pipe -> sink.
//!
//! It owns no file descriptor and does nothing; it takes what happened and says what comes next.
//! Readiness is remembered from edge-triggered events: `readable` and `writable` stay set until the
//! kernel says EAGAIN, or a read has shown that the next one would. Invariant: the source is read only
//! while the pipe is empty, so nothing is read that has nowhere to go, and EAGAIN on a read always means
//! that the source has nothing.

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Move bytes from the source into the pipe.
    Fill,
    /// Move bytes from the pipe into the sink.
    Empty,
    /// Pass the end of the stream on to the sink: shutdown(2) for writing.
    Finish,
    /// Nothing until the next event.
    Wait,
    /// Nothing ever again.
    Over,
}

/// One direction: how many bytes its pipe holds and what is known of both ends.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes in the pipe.
    pub held: u32,
    /// Bytes that went into the sink.
    pub bytes: u64,
    readable: bool,
    writable: bool,
    ended: bool,
    over: bool,
}

impl Flow {
    pub fn next(&self) -> Step {
        match self {
            Flow { over: true, .. } => Step::Over,
            Flow { held: 1.., writable: true, .. } => Step::Empty,
            Flow { held: 1.., .. } => Step::Wait,
            Flow { ended: true, .. } => Step::Finish,
            Flow { readable: true, writable: true, .. } => Step::Fill,
            _ => Step::Wait,
        }
    }

    /// The source may have bytes, or its end.
    pub fn source_ready(&mut self) {
        self.readable = true;
    }

    /// The sink may take bytes.
    pub fn sink_ready(&mut self) {
        self.writable = true;
    }

    /// A [`Step::Fill`] moved `n` bytes; 0 is the end of the stream.
    pub fn filled(&mut self, n: u32) {
        self.held += n;
        self.ended |= n == 0;
    }

    /// A [`Step::Fill`] found nothing, or left nothing.
    pub fn source_blocked(&mut self) {
        self.readable = false;
    }

    /// A [`Step::Empty`] moved `n` bytes.
    pub fn emptied(&mut self, n: u32) {
        self.held = self.held.saturating_sub(n);
        self.bytes += u64::from(n);
    }

    /// A [`Step::Empty`] found no room.
    pub fn sink_blocked(&mut self) {
        self.writable = false;
    }

    /// The source has more, as far as is known, and the sink takes none of what is held.
    pub fn waits_for_room(&self) -> bool {
        self.held > 0 && self.readable && !self.writable
    }

    /// The sink takes bytes, as far as is known.
    pub fn has_room(&self) -> bool {
        self.writable
    }

    /// The end was passed on, or the sink is gone: what is held is given up.
    pub fn finished(&mut self) {
        self.over = true;
        self.held = 0;
    }

    /// Read no more from the source: as if it had ended here. What is held still goes out.
    pub fn end_source(&mut self) {
        self.ended = true;
    }

    /// The source has ended, by itself or by [`end_source`](Self::end_source).
    pub fn has_ended(&self) -> bool {
        self.ended || self.over
    }

    pub fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::seeded::Seeded;

    /// A kernel with one source and one sink: it raises an edge when an end becomes ready, as
    /// epoll(7) with EPOLLET does, and forgets to do so never. Bytes at a source that is muted raise none.
    struct Kernel {
        coming: u32,
        arrived: u32,
        fin_arrived: bool,
        room: u32,
        delivered: u32,
        fin_delivered: bool,
    }

    fn drive(flow: &mut Flow, kernel: &mut Kernel, random: &mut Seeded, capacity: u32) {
        for _ in 0..1000 {
            match flow.next() {
                Step::Fill => {
                    assert_eq!(flow.held, 0, "read without an empty pipe");
                    match kernel.arrived.min(capacity) {
                        0 if kernel.fin_arrived => flow.filled(0),
                        0 => flow.source_blocked(),
                        most => {
                            let n = 1 + random.below(most);
                            kernel.arrived -= n;
                            flow.filled(n);
                        }
                    }
                }
                Step::Empty => match kernel.room.min(flow.held) {
                    0 => flow.sink_blocked(),
                    most => {
                        let n = 1 + random.below(most);
                        kernel.room -= n;
                        kernel.delivered += n;
                        flow.emptied(n);
                    }
                },
                Step::Finish => {
                    kernel.fin_delivered = true;
                    flow.finished();
                }
                Step::Wait | Step::Over => return,
            }
        }
    }

    #[test]
    fn every_history_delivers_every_byte_and_then_the_end() {
        for seed in 0..20_000 {
            let mut random = Seeded::new(seed);
            let total = random.below(200_000);
            let mut kernel = Kernel {
                coming: total,
                arrived: 0,
                fin_arrived: false,
                room: random.below(5_000),
                delivered: 0,
                fin_delivered: false,
            };
            let capacity = [8_192, 65_536, 1_048_576][random.below(3) as usize];
            let mut flow = Flow::default();
            flow.sink_ready();
            let mut muted = false;
            for turn in 0.. {
                assert!(turn < 100_000, "seed {seed}: stuck with {flow:?}");
                match random.below(3) {
                    0 if kernel.coming > 0 => {
                        let n = 1 + random.below(kernel.coming);
                        kernel.coming -= n;
                        kernel.arrived += n;
                        if !muted {
                            flow.source_ready();
                        }
                    }
                    1 if kernel.coming == 0 && !kernel.fin_arrived => {
                        kernel.fin_arrived = true;
                        flow.source_ready();
                    }
                    2 => {
                        kernel.room += random.below(40_000);
                        flow.sink_ready();
                    }
                    _ => {}
                }
                drive(&mut flow, &mut kernel, &mut random, capacity);
                if muted && !flow.waits_for_room() && (kernel.arrived > 0 || kernel.fin_arrived) {
                    flow.source_ready();
                    drive(&mut flow, &mut kernel, &mut random, capacity);
                }
                muted = flow.waits_for_room();
                assert!(
                    !kernel.fin_delivered || kernel.delivered == total,
                    "seed {seed}: end before the bytes"
                );
                if flow.is_over() {
                    break;
                }
            }
            assert_eq!((kernel.delivered, flow.bytes), (total, u64::from(total)), "seed {seed}");
        }
    }

    #[test]
    fn an_ended_source_is_read_no_more_and_what_is_held_still_goes_out() {
        let mut flow = Flow::default();
        flow.source_ready();
        flow.sink_ready();
        flow.filled(10);
        flow.end_source();
        assert_eq!(flow.next(), Step::Empty);
        flow.emptied(10);
        assert_eq!(flow.next(), Step::Finish);
        flow.finished();
        assert_eq!(flow.next(), Step::Over);
    }
}
