//! Merkle trees as RFC 6962 defines them (and RFC 9162 after it): SHA-256, `0x00` before a leaf, `0x01` before a node.
//! Hashes only; nothing here knows what a leaf is.

use std::ops::Range;

use sha2::{Digest, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The hash of a leaf's bytes.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(leaf).finalize().into()
}

/// The hash of two subtrees.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// A tree reduced to what is needed to add leaves to it: the roots of its perfect subtrees, the largest first. There are as
/// many as its size has ones in binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compact {
    size: u64,
    nodes: Vec<Hash>,
}

impl Compact {
    /// From what [`Compact::nodes`] gave; `None` where their number does not fit the size.
    pub fn restore(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        (nodes.len() == size.count_ones() as usize).then_some(Compact { size, nodes })
    }

    /// Of some leaves.
    pub fn of<'a>(leaves: impl IntoIterator<Item = &'a Hash>) -> Self {
        Compact::default().with(leaves)
    }

    /// With further leaves.
    #[must_use]
    pub fn with<'a>(&self, leaves: impl IntoIterator<Item = &'a Hash>) -> Self {
        let mut grown = self.clone();
        leaves.into_iter().for_each(|leaf| grown.push(*leaf));
        grown
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let (mut node, mut size) = (leaf, self.size);
        while size & 1 == 1
            && let Some(left) = self.nodes.pop()
        {
            node = node_hash(&left, &node);
            size >>= 1;
        }
        self.nodes.push(node);
        self.size += 1;
    }

    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of its perfect subtrees.
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// The root of the whole; of an empty tree the hash of nothing.
    pub fn root(&self) -> Hash {
        let fold = |right: Hash, left: Hash| node_hash(&left, &right);
        self.nodes.iter().rev().copied().reduce(fold).unwrap_or_else(|| Sha256::digest([]).into())
    }

    /// The consistency proof from this tree to the one with further leaves.
    pub fn proof_of_growth(&self, leaves: &[Hash]) -> Option<Vec<Hash>> {
        let inside = |span: &Range<u64>| {
            let mut start = 0;
            let subtrees = (0..u64::BITS).rev().filter(|bit| self.size >> bit & 1 == 1).zip(&self.nodes);
            for (bit, node) in subtrees {
                if *span == (start..start + (1 << bit)) {
                    return Some(*node);
                }
                start += 1 << bit;
            }
            None
        };
        let behind = |span: &Range<u64>| {
            let place = |at: u64| at.checked_sub(self.size).and_then(|at| usize::try_from(at).ok());
            leaves.get(place(span.start)?..place(span.end)?).map(|leaves| Compact::of(leaves).root())
        };
        let spans = consistency(self.size, self.size + leaves.len() as u64);
        spans.iter().map(|span| inside(span).or_else(|| behind(span))).collect()
    }
}

/// The largest power of two below `size`, which has to be 2 at least.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// Of which subtrees the hashes prove that leaf `index` is in a tree of `size`, from the leaf up.
pub fn inclusion(index: u64, size: u64) -> Vec<Range<u64>> {
    let (mut span, mut path) = (0..size, Vec::new());
    while span.end - span.start > 1 {
        let middle = span.start + split(span.end - span.start);
        if index < middle {
            path.push(middle..span.end);
            span.end = middle;
        } else {
            path.push(span.start..middle);
            span.start = middle;
        }
    }
    path.reverse();
    path
}

/// Of which subtrees the hashes prove that a tree of size `old` is the beginning of one of size `new`.
pub fn consistency(old: u64, new: u64) -> Vec<Range<u64>> {
    let (mut span, mut path, mut is_old_root) = (0..new, Vec::new(), true);
    if old == 0 {
        return path;
    }
    while old < span.end {
        let middle = span.start + split(span.end - span.start);
        if old <= middle {
            path.push(middle..span.end);
            span.end = middle;
        } else {
            path.push(span.start..middle);
            span.start = middle;
            is_old_root = false;
        }
    }
    if !is_old_root {
        path.push(span);
    }
    path.reverse();
    path
}

/// The root that a leaf and its path lead to (RFC 9162, 2.1.3.2); `None` where the path has not the right length.
pub fn root_by_path(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    let (mut at, mut last) = (index, size.checked_sub(1)?);
    if at > last {
        return None;
    }
    let mut root = leaf;
    for node in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            root = node_hash(node, &root);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            root = node_hash(&root, node);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some(root)
}

/// Whether a proof shows that the tree with `old` leaves is the beginning of the other (RFC 9162, 2.1.4.2).
pub fn is_consistent(old: (u64, Hash), new: (u64, Hash), path: &[Hash]) -> bool {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size == 0 || old_size == new_size {
        return path.is_empty() && (old_size == 0 || old_root == new_root);
    }
    if old_size > new_size {
        return false;
    }
    let begins = if old_size.is_power_of_two() { Some(old_root) } else { None };
    let mut path = begins.into_iter().chain(path.iter().copied());
    let Some(first) = path.next() else { return false };
    let (mut at, mut last) = (old_size - 1, new_size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old_found, mut new_found) = (first, first);
    for node in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old_found = node_hash(&node, &old_found);
            new_found = node_hash(&node, &new_found);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new_found = node_hash(&new_found, &node);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old_found == old_root && new_found == new_root
}

/// The roots of some spans of a tree, from its leaves one after the other.
pub struct Gather {
    at: u64,
    spans: Vec<(Range<u64>, Compact)>,
}

impl Gather {
    /// Of these spans, which do not overlap.
    pub fn new(spans: Vec<Range<u64>>) -> Self {
        Gather { at: 0, spans: spans.into_iter().map(|span| (span, Compact::default())).collect() }
    }

    /// Takes the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        if let Some((_, part)) = self.spans.iter_mut().find(|(span, _)| span.contains(&self.at)) {
            part.push(leaf);
        }
        self.at += 1;
    }

    /// The roots in the order of the spans; `None` while a leaf is missing.
    pub fn finish(self) -> Option<Vec<Hash>> {
        self.spans.into_iter().map(|(span, part)| (part.size() == span.end - span.start).then(|| part.root())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    fn root(leaves: &[Hash]) -> Hash {
        Compact::of(leaves).root()
    }

    /// As RFC 6962, 2.1 writes it down, word for word.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len() as u64) as usize);
                node_hash(&by_definition(left), &by_definition(right))
            }
        }
    }

    fn gathered(spans: Vec<Range<u64>>, leaves: &[Hash]) -> Vec<Hash> {
        let mut gather = Gather::new(spans);
        leaves.iter().for_each(|leaf| gather.push(*leaf));
        gather.finish().unwrap()
    }

    /// The eight leaves and their roots that google/certificate-transparency tests with (merkletree/merkle_tree_test.cc).
    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let leaves =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Compact::default();
        assert_eq!(hex(&tree.root()), roots[0], "of the empty tree");
        for (leaf, root) in leaves.iter().zip(&roots[1..]) {
            tree.push(leaf_hash(&unhex(leaf)));
            assert_eq!(hex(&tree.root()), *root, "of {} leaves", tree.size());
        }
    }

    #[test]
    fn roots_are_as_defined_and_a_tree_goes_on_from_its_nodes() {
        let all = leaves(200);
        let mut tree = Compact::default();
        for size in 0..=200 {
            assert_eq!(tree.root(), by_definition(&all[..size]));
            assert_eq!(Compact::restore(size as u64, tree.nodes().to_vec()).unwrap(), tree);
            assert_eq!(Compact::restore(size as u64 ^ 1, tree.nodes().to_vec()), None);
            all.get(size).into_iter().for_each(|leaf| tree.push(*leaf));
        }
    }

    #[test]
    fn inclusion_is_proved_for_every_leaf_of_every_size_and_nothing_else_is() {
        let all = leaves(200);
        for size in 1..=200u64 {
            let all = &all[..size as usize];
            let root = root(all);
            for index in 0..size {
                let path = gathered(inclusion(index, size), all);
                let leaf = all[index as usize];
                assert_eq!(root_by_path(leaf, index, size, &path), Some(root), "{index} of {size}");
                assert_ne!(root_by_path(leaf_hash(b"another"), index, size, &path), Some(root));
                for other in [index ^ 1, index + 1, size, u64::MAX].into_iter().filter(|other| *other != index) {
                    assert_ne!(root_by_path(leaf, other, size, &path), Some(root), "{index} as {other} of {size}");
                }
                for changed in 0..path.len() {
                    let mut path = path.clone();
                    path[changed][(index % 32) as usize] ^= 1 << (size % 8);
                    assert_ne!(root_by_path(leaf, index, size, &path), Some(root));
                    path.truncate(changed);
                    assert_ne!(root_by_path(leaf, index, size, &path), Some(root));
                }
                let longer = [&path[..], &[root]].concat();
                assert_ne!(root_by_path(leaf, index, size, &longer), Some(root));
            }
        }
        assert_eq!(root_by_path(all[0], 0, 0, &[]), None);
    }

    #[test]
    fn consistency_is_proved_between_all_sizes_and_nothing_else_is() {
        let all = leaves(200);
        let roots: Vec<_> = (0..=200).map(|size| root(&all[..size])).collect();
        for old in 0..=200usize {
            let tree = Compact::of(&all[..old]);
            for new in old..=200 {
                let (first, second) = ((old as u64, roots[old]), (new as u64, roots[new]));
                let path = gathered(consistency(old as u64, new as u64), &all[..new]);
                assert_eq!(tree.proof_of_growth(&all[old..new]).as_ref(), Some(&path));
                assert!(is_consistent(first, second, &path), "{old} to {new}");
                if old == 0 {
                    continue;
                }
                let other = leaf_hash(b"another");
                assert!(!is_consistent((old as u64, other), second, &path), "{old} to {new}");
                assert!(!is_consistent(first, (new as u64, other), &path), "{old} to {new}");
                assert!(!is_consistent(first, second, &[&path[..], &[other]].concat()), "{old} to {new}");
                for changed in 0..path.len() {
                    let mut path = path.clone();
                    path[changed][new % 32] ^= 1;
                    assert!(!is_consistent(first, second, &path), "{old} to {new}");
                    path.truncate(changed);
                    assert!(!is_consistent(first, second, &path), "{old} to {new}");
                }
                if old != new {
                    assert!(!is_consistent(second, first, &path), "{new} back to {old}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn large_trees_and_any_input_are_verified_without_panic(
            index in any::<u64>(), size in any::<u64>(), old in any::<u64>(), path in prop::collection::vec(any::<Hash>(), 0..70),
        ) {
            let leaf = leaf_hash(b"x");
            root_by_path(leaf, index, size, &path);
            prop_assert!(old == 0 || !is_consistent((old, leaf), (size, leaf), &path) || old == size);
            if index < size {
                prop_assert!(inclusion(index, size).len() <= 64);
            }
            prop_assert!(consistency(old.min(size), size).len() <= 65);
        }
    }
}
