//! Arithmetic on vectors of meaning: few bits to find candidates among a million, 8-bit codes to
//! put them in order.
//!
//! A vector is kept twice. Its signs, one bit per dimension, lie in memory ([`SignArray`]), and a
//! query goes over all of them: its own components are rounded to four bits, so that it loses next
//! to nothing ([`SignQuery`]), and the product of the two is counted, not multiplied. What comes
//! first is then compared exactly, by codes of 8 bits that may lie on a disk ([`code`], [`dot`]).
//! Keeping the query finer than what it meets costs four counts in place of one and finds with 100
//! candidates what the plain distance between signs finds with several hundred.
//!
//! The kernels are chosen at run time by what the processor has. All of them count integers, so
//! their results are the same to the bit. Nothing here reads a file or starts a thread.

mod portable;
#[cfg(target_arch = "x86_64")]
mod simd;

#[cfg(test)]
mod tests;

use std::ops::Range;

/// The most dimensions of a vector: sums of 4-bit components over as many signs fit into 16 bits.
pub const DIMENSIONS_MAX: usize = 4096;

/// Vectors whose signs lie side by side.
const BLOCK: usize = 8;
/// Bits of a word.
const WORD_BITS: usize = u64::BITS as usize;
/// Bits that a query's component is rounded to.
const QUERY_BITS: usize = 4;
/// The largest component of a rounded query. The smallest is one lower and never used.
const QUERY_MAX: f32 = 7.0;
/// Where a query's components are cut off, in standard deviations: a few far ones would make the
/// steps of all others coarse. Of normally distributed ones this cuts one in two thousand.
const QUERY_CUT: f32 = 3.5;
/// Blocks that are scored before any is looked at: their scores stay in the first-level cache.
const CHUNK_BLOCKS: usize = 512;
/// Scores that are passed over at once if none of them is among the best.
const GROUP: usize = 64;

/// One word of the signs of each of eight vectors: what a kernel loads at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(64))]
struct Lanes([u64; BLOCK]);

/// One word of a query: bit `d` of plane `p` is bit `p` of component `d`, in two's complement.
type Planes = [u64; QUERY_BITS];

/// Returns the words that a vector's signs take.
pub const fn sign_words(dimensions: usize) -> usize {
    dimensions.div_ceil(WORD_BITS)
}

/// Returns a vector's signs: a bit is set where the component is positive.
pub fn signs(vector: &[f32]) -> Box<[u64]> {
    let words = vector.chunks(WORD_BITS).map(|components| {
        let bits = components.iter().enumerate();
        bits.fold(0, |word, (at, &component)| {
            word | u64::from(component > 0.0) << at
        })
    });
    words.collect()
}

/// A query in the form that meets signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignQuery {
    planes: Vec<Planes>,
}

impl SignQuery {
    /// Rounds a query.
    pub fn new(query: &[f32]) -> Self {
        let squares: f32 = query.iter().map(|component| component * component).sum();
        let deviation = (squares / query.len().max(1) as f32).sqrt();
        let largest = query.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        let range = largest.min(deviation * QUERY_CUT);
        let scale = if range > 0.0 { QUERY_MAX / range } else { 0.0 };
        let words = query.chunks(WORD_BITS).map(|components| {
            let mut planes = [0; QUERY_BITS];
            for (at, &component) in components.iter().enumerate() {
                let code = (component * scale).clamp(-QUERY_MAX, QUERY_MAX).round() as i8;
                for (bit, plane) in planes.iter_mut().enumerate() {
                    *plane |= u64::from(code as u8 >> bit & 1) << at;
                }
            }
            planes
        });
        Self {
            planes: words.collect(),
        }
    }
}

/// A vector that came out well, and how well: more is better, and means nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which vector it is.
    pub index: usize,
    /// The rounded query's components where the vector is positive, summed.
    pub score: i16,
}

/// The signs of many vectors, in blocks of eight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignArray {
    words: usize,
    len: usize,
    blocks: Vec<Lanes>,
}

impl SignArray {
    /// Makes an empty one.
    ///
    /// # Panics
    /// If there are more than [`DIMENSIONS_MAX`] dimensions, or none.
    pub fn new(dimensions: usize) -> Self {
        assert!((1..=DIMENSIONS_MAX).contains(&dimensions), "no such vector");
        Self {
            words: sign_words(dimensions),
            len: 0,
            blocks: Vec::new(),
        }
    }

    /// Returns how many vectors there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the memory that it holds.
    pub fn bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Lanes>()
    }

    /// Adds a vector's signs at the end.
    ///
    /// # Panics
    /// If they are of another number of dimensions.
    pub fn push(&mut self, signs: &[u64]) {
        assert_eq!(signs.len(), self.words, "signs of another length");
        let lane = self.len % BLOCK;
        if lane == 0 {
            if self.blocks.len() + self.words > self.blocks.capacity() {
                // Not twice as much as there is: of a million vectors that may be 48 MB too many.
                let more = (self.blocks.len() / 8).max(self.words);
                self.blocks.reserve_exact(more);
            }
            let end = self.blocks.len() + self.words;
            self.blocks.resize(end, Lanes::default());
        }
        let first = self.blocks.len() - self.words;
        for (lanes, &word) in self.blocks[first..].iter_mut().zip(signs) {
            lanes.0[lane] = word;
        }
        self.len += 1;
    }

    /// Returns a vector's signs.
    ///
    /// # Panics
    /// If there is no such vector.
    pub fn get(&self, index: usize) -> Box<[u64]> {
        assert!(index < self.len, "no such vector");
        let first = index / BLOCK * self.words;
        let lanes = self.blocks[first..first + self.words].iter();
        lanes.map(|lanes| lanes.0[index % BLOCK]).collect()
    }

    /// Returns the best vectors of a range that are accepted, at most `count` and in no order.
    ///
    /// Among equals the later ones are as good as the earlier ones. `accept` is asked only about
    /// vectors that would be among the best so far.
    ///
    /// # Panics
    /// If the query is of another number of dimensions, or the range is not there.
    pub fn best(
        &self,
        query: &SignQuery,
        range: Range<usize>,
        count: usize,
        accept: impl FnMut(usize) -> bool,
    ) -> Vec<Candidate> {
        self.best_with(InstructionSet::detect(), query, range, count, accept)
    }

    fn best_with(
        &self,
        set: InstructionSet,
        query: &SignQuery,
        range: Range<usize>,
        count: usize,
        mut accept: impl FnMut(usize) -> bool,
    ) -> Vec<Candidate> {
        assert_eq!(query.planes.len(), self.words, "a query of another length");
        assert!(range.start <= range.end && range.end <= self.len);
        let mut best = Best::new(count);
        if count == 0 {
            return Vec::new();
        }
        let mut scores = [0i16; CHUNK_BLOCKS * BLOCK];
        let chunk = CHUNK_BLOCKS * BLOCK;
        for start in (range.start / BLOCK * BLOCK..range.end).step_by(chunk) {
            let vectors = chunk.min(self.len - start).div_ceil(BLOCK) * BLOCK;
            let first = start / BLOCK * self.words;
            let blocks = &self.blocks[first..first + vectors / BLOCK * self.words];
            set.score(&query.planes, blocks, &mut scores[..vectors]);
            let from = range.start.max(start);
            let to = range.end.min(start + vectors);
            let scores = scores[from - start..to - start].chunks(GROUP);
            for (first, scores) in (from..to).step_by(GROUP).zip(scores) {
                // Without a branch per score the compiler compares many at once.
                let any = |any: bool, &score: &i16| any | (score > best.floor);
                if scores.iter().fold(false, any) {
                    for (index, &score) in (first..).zip(scores) {
                        if score > best.floor && accept(index) {
                            best.push(Candidate { index, score });
                        }
                    }
                }
            }
        }
        best.finish()
    }
}

/// The best of what is pushed, without order: twice as many are held, and halved when full.
struct Best {
    count: usize,
    held: Vec<Candidate>,
    /// What is not above it is not among the best.
    floor: i16,
}

impl Best {
    fn new(count: usize) -> Self {
        Self {
            count,
            held: Vec::new(),
            floor: i16::MIN,
        }
    }

    #[inline]
    fn push(&mut self, candidate: Candidate) {
        self.held.push(candidate);
        if self.held.len() >= self.count.saturating_mul(2) {
            self.halve();
        }
    }

    fn halve(&mut self) {
        if self.held.len() > self.count {
            let by_score = |candidate: &Candidate| std::cmp::Reverse(candidate.score);
            let (_, last, _) = self
                .held
                .select_nth_unstable_by_key(self.count - 1, by_score);
            self.floor = last.score;
            self.held.truncate(self.count);
        }
    }

    fn finish(mut self) -> Vec<Candidate> {
        self.halve();
        self.held
    }
}

/// Rounds a vector to codes from -127 to 127 and the scale that they are to be multiplied with.
///
/// The codes are written over what `codes` holds.
pub fn code(vector: &[f32], codes: &mut Vec<i8>) -> f32 {
    let largest = vector
        .iter()
        .fold(0.0f32, |max, value| max.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    codes.clear();
    codes.extend(
        vector
            .iter()
            .map(|component| (component * inverse).round() as i8),
    );
    scale
}

/// Returns the product of a vector and another one's codes, short of their scale.
///
/// # Panics
/// If they are of different lengths.
pub fn dot(vector: &[f32], codes: &[i8]) -> f32 {
    assert_eq!(vector.len(), codes.len(), "vectors of different lengths");
    InstructionSet::detect().dot(vector, codes)
}

/// The instructions that a kernel is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InstructionSet {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(simd::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(simd::Avx512),
}

impl InstructionSet {
    /// Returns the best that there is. The standard library remembers what the processor said.
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(set) = simd::Avx512::detect() {
                return Self::Avx512(set);
            }
            if let Some(set) = simd::Avx2::detect() {
                return Self::Avx2(set);
            }
        }
        Self::Portable
    }

    /// Scores blocks of eight vectors.
    fn score(self, planes: &[Planes], blocks: &[Lanes], scores: &mut [i16]) {
        assert_eq!(blocks.len() * BLOCK, scores.len() * planes.len());
        match self {
            Self::Portable => portable::score(planes, blocks, scores),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(set) => set.score(planes, blocks, scores),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(set) => set.score(planes, blocks, scores),
        }
    }

    fn dot(self, vector: &[f32], codes: &[i8]) -> f32 {
        match self {
            Self::Portable => portable::dot(vector, codes),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(set) => set.dot(vector, codes),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(set) => set.dot(vector, codes),
        }
    }
}
