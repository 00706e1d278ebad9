//! Logits of several positions.

/// A vector of logits for each of several positions, one behind the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogitRows {
    values: Vec<f32>,
    vocabulary_size: usize,
}

impl LogitRows {
    /// Takes vectors of `vocabulary_size` each; what is left over at the end belongs to none.
    pub fn new(values: Vec<f32>, vocabulary_size: usize) -> Self {
        Self {
            values,
            vocabulary_size,
        }
    }

    /// Takes a single vector.
    pub fn one(values: Vec<f32>) -> Self {
        let vocabulary_size = values.len();
        Self::new(values, vocabulary_size)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns them in order.
    pub fn iter(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.vocabulary_size.max(1))
    }

    /// Returns the values of all of them.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

impl std::ops::Index<usize> for LogitRows {
    type Output = [f32];

    fn index(&self, row: usize) -> &[f32] {
        let start = row * self.vocabulary_size;
        &self.values[start..start + self.vocabulary_size]
    }
}

impl<'a> IntoIterator for &'a LogitRows {
    type Item = &'a [f32];
    type IntoIter = std::slice::ChunksExact<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Rows of one length.
impl FromIterator<Vec<f32>> for LogitRows {
    fn from_iter<I: IntoIterator<Item = Vec<f32>>>(rows: I) -> Self {
        let mut all = Self::default();
        for row in rows {
            all.vocabulary_size = row.len();
            all.values.extend(row);
        }
        all
    }
}
