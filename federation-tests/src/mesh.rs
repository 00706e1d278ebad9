//! Who pushes gossip to whom: a random graph in which everybody has six to eight neighbours, as
//! gossipsub keeps it.

use crate::random::Random;

/// How many neighbours gossipsub looks for, and how many it suffers here.
const DEGREE: usize = 6;
const DEGREE_MAX: usize = 8;
/// Vain attempts after which a node is left with fewer: with a handful of nodes there are none.
const ATTEMPTS_MAX: usize = 1000;

/// Returns the neighbours of each node.
pub(crate) fn random(nodes: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let mut neighbours = vec![Vec::new(); nodes];
    for node in 0..nodes {
        let mut attempts = 0;
        while neighbours[node].len() < DEGREE && attempts < ATTEMPTS_MAX {
            let other = random.index(nodes);
            let fits = other != node
                && neighbours[other].len() < DEGREE_MAX
                && !neighbours[node].contains(&other);
            if fits {
                neighbours[node].push(other);
                neighbours[other].push(node);
            }
            attempts += 1;
        }
    }
    neighbours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_six_to_eight_neighbours_and_is_one_of_theirs() {
        let mesh = random(1000, &mut Random::new(5));
        for (node, neighbours) in mesh.iter().enumerate() {
            assert!(neighbours.len() <= DEGREE_MAX);
            assert!(neighbours.iter().all(|other| mesh[*other].contains(&node)));
        }
        let short = mesh.iter().filter(|neighbours| neighbours.len() < DEGREE);
        assert!(short.count() < 10);
    }
}
