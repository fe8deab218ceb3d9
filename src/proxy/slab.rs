//! A worker's table of connections, in chunks that never move.
//!
//! A [`Key`] carries the generation of its slot: an event or timer of a connection that is gone
//! finds nothing instead of its successor.

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub slot: u32,
    pub generation: u32,
}

const CHUNK: usize = 128;
/// Where generations begin anew: no key ever has this one.
pub const END: u32 = u32::MAX;

struct Slot<T> {
    generation: u32,
    entry: Option<T>,
}

/// Growing adds a chunk and copies nothing.
pub struct Slab<T> {
    chunks: Vec<Box<[Slot<T>]>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub fn insert(&mut self, entry: T) -> Key {
        if self.free.is_empty() {
            let first = (self.chunks.len() * CHUNK) as u32;
            self.chunks.push((0..CHUNK).map(|_| Slot { generation: 0, entry: None }).collect());
            self.free.extend((first..first + CHUNK as u32).rev());
        }
        let slot = self.free.pop().unwrap_or_default();
        let place = &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK];
        place.entry = Some(entry);
        Key { slot, generation: place.generation }
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        let place = self.chunks.get(key.slot as usize / CHUNK)?.get(key.slot as usize % CHUNK)?;
        if place.generation == key.generation { place.entry.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.chunks.get_mut(key.slot as usize / CHUNK)?.get_mut(key.slot as usize % CHUNK)?;
        if place.generation == key.generation { place.entry.as_mut() } else { None }
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.chunks.get_mut(key.slot as usize / CHUNK)?.get_mut(key.slot as usize % CHUNK)?;
        if place.generation != key.generation {
            return None;
        }
        let entry = place.entry.take()?;
        place.generation = (place.generation + 1) % END;
        self.free.push(key.slot);
        Some(entry)
    }

    /// How many slots there are, of which each may have an entry: their numbers are below this one.
    pub fn slots(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    /// What is in the slot of that number now.
    pub fn at(&self, slot: u32) -> Option<&T> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?[slot % CHUNK].entry.as_ref()
    }

    /// The keys of all entries, a snapshot.
    pub fn keys(&self) -> Vec<Key> {
        let slots = self.chunks.iter().flat_map(|chunk| chunk.iter());
        slots
            .zip(0..)
            .filter(|(place, _)| place.entry.is_some())
            .map(|(place, slot)| Key { slot, generation: place.generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_own_entry_only() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(second.slot, first.slot);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!(slab.keys(), vec![second]);
        assert_eq!(
            (slab.at(second.slot), slab.at(second.slot + 1), slab.at(slab.slots())),
            (Some(&'b'), None, None)
        );
    }

    #[test]
    fn generations_begin_anew_before_the_one_that_no_key_has() {
        let mut slab = Slab::default();
        let first = slab.insert(());
        slab.chunks[0][first.slot as usize].generation = END - 1;
        let last = Key { generation: END - 1, ..first };
        assert_eq!(slab.remove(last), Some(()));
        assert_eq!(slab.insert(()), Key { generation: 0, ..first });
    }

    #[test]
    fn grows_over_a_chunk() {
        let mut slab = Slab::default();
        let keys: Vec<_> = (0..1000).map(|n| slab.insert(n)).collect();
        assert!(keys.iter().zip(0..).all(|(key, n)| slab.get_mut(*key) == Some(&mut { n })));
        assert_eq!(slab.keys().len(), 1000);
    }
}
