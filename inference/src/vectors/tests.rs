//! The kernels against plain arithmetic, and the best of an array against sorting all of it.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn random_vector(rng: &mut ChaCha8Rng, dimensions: usize) -> Vec<f32> {
    (0..dimensions)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect()
}

fn sets() -> Vec<InstructionSet> {
    let mut sets = vec![InstructionSet::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        sets.extend(simd::Avx2::detect().map(InstructionSet::Avx2));
        sets.extend(simd::Avx512::detect().map(InstructionSet::Avx512));
    }
    sets
}

fn array(rng: &mut ChaCha8Rng, dimensions: usize, len: usize) -> SignArray {
    let mut array = SignArray::new(dimensions);
    for _ in 0..len {
        array.push(&signs(&random_vector(rng, dimensions)));
    }
    array
}

/// The score by its definition, from the query's codes and the vector's signs.
fn plain_score(query: &SignQuery, signs: &[u64]) -> i16 {
    let mut sum = 0;
    for (word, planes) in signs.iter().zip(&query.planes) {
        for bit in 0..64 {
            let code = (0..4).map(|plane| (planes[plane] >> bit & 1) << plane);
            let code = code.sum::<u64>() as i16;
            let code = if code >= 8 { code - 16 } else { code };
            sum += if word >> bit & 1 == 1 { code } else { 0 };
        }
    }
    sum
}

#[test]
fn signs_are_set_where_components_are_positive() {
    let mut vector = vec![-1.0; 70];
    vector[0] = 0.5;
    vector[3] = 0.0;
    vector[69] = 2.0;
    assert_eq!(*signs(&vector), [1, 1 << 5]);
}

#[test]
fn every_kernel_scores_like_the_definition() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dimensions in [1, 64, 100, 384, 768, 1000, DIMENSIONS_MAX] {
        let array = array(&mut rng, dimensions, 37);
        let query = SignQuery::new(&random_vector(&mut rng, dimensions));
        let expected: Vec<_> = (0..array.len())
            .map(|index| plain_score(&query, &array.get(index)))
            .collect();
        for set in sets() {
            let mut scores = vec![0; 40];
            set.score(&query.planes, &array.blocks, &mut scores);
            assert_eq!(scores[..37], expected, "{set:?} {dimensions}");
        }
    }
}

#[test]
fn sums_of_the_longest_vectors_fit() {
    for sign in [1.0, -1.0] {
        let vector = vec![sign; DIMENSIONS_MAX];
        let query = SignQuery::new(&vector);
        let mut array = SignArray::new(DIMENSIONS_MAX);
        array.push(&signs(&vec![1.0; DIMENSIONS_MAX]));
        for set in sets() {
            let best = array.best_with(set, &query, 0..1, 1, |_| true);
            let expected = (QUERY_MAX * sign) as i16 * DIMENSIONS_MAX as i16;
            assert_eq!(best[0].score, expected, "{set:?}");
        }
    }
}

#[test]
fn the_best_are_those_that_sorting_puts_first() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let array = array(&mut rng, 384, 9_001);
    for (range, count) in [
        (0..9_001, 10),
        (5..9_000, 100),
        (4_095..4_097, 3),
        (17..17, 5),
        (0..9_001, 9_001),
        (0..9_001, 0),
    ] {
        let query = SignQuery::new(&random_vector(&mut rng, 384));
        let mut expected: Vec<_> = range
            .clone()
            .filter(|index| index % 3 != 0)
            .map(|index| plain_score(&query, &array.get(index)))
            .collect();
        expected.sort_unstable_by_key(|score| std::cmp::Reverse(*score));
        expected.truncate(count);
        for set in sets() {
            let mut best =
                array.best_with(set, &query, range.clone(), count, |index| index % 3 != 0);
            best.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.score));
            let scores: Vec<_> = best.iter().map(|candidate| candidate.score).collect();
            assert_eq!(scores, expected, "{set:?} {range:?}");
            for candidate in best {
                assert!(range.contains(&candidate.index) && candidate.index % 3 != 0);
                let signs = array.get(candidate.index);
                assert_eq!(candidate.score, plain_score(&query, &signs));
            }
        }
    }
}

#[test]
fn what_was_pushed_is_read_back() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let pushed: Vec<_> = (0..50)
        .map(|_| signs(&random_vector(&mut rng, 130)))
        .collect();
    let mut array = SignArray::new(130);
    for (count, signs) in pushed.iter().enumerate() {
        assert_eq!(array.len(), count);
        array.push(signs);
    }
    for (index, signs) in pushed.iter().enumerate() {
        assert_eq!(array.get(index), *signs);
    }
    assert!(array.bytes() >= 56 * 3 * 8);
}

#[test]
fn codes_are_within_half_a_step_and_products_near_exact_ones() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut codes = Vec::new();
    for dimensions in [1, 15, 16, 384, 390] {
        let vector = random_vector(&mut rng, dimensions);
        let other = random_vector(&mut rng, dimensions);
        let scale = code(&vector, &mut codes);
        for (component, &code) in vector.iter().zip(&codes) {
            assert!((component - scale * f32::from(code)).abs() <= scale * 0.5001);
        }
        let pairs = other.iter().zip(&codes);
        let expected: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        for set in sets() {
            let found = f64::from(set.dot(&other, &codes));
            assert!(
                (found - expected).abs() < 0.01,
                "{set:?}: {found} {expected}"
            );
        }
    }
}

#[test]
fn a_vector_of_zeros_has_codes_and_a_query_of_zeros_finds() {
    let mut codes = vec![1];
    assert_eq!(code(&[0.0; 20], &mut codes), 0.0);
    assert_eq!(codes, [0; 20]);
    let mut array = SignArray::new(20);
    array.push(&signs(&[0.0; 20]));
    let best = array.best(&SignQuery::new(&[0.0; 20]), 0..1, 5, |_| true);
    assert_eq!(best, [Candidate { index: 0, score: 0 }]);
}
