package ext4

// removeExtents is RemoveRuns for an extent tree: leaf by leaf.
func (v *Volume) removeExtents(ed Editor, r *removal) (next Lblk, err error) {
	for next = r.to; ; {
		var p treePath
		if next > r.from {
			if err := v.descend(ed, r.in, next-1, &p); err != nil {
				return next, err
			}
		}
		leaf, at := p.node(r.in, p.depth), p.nodes[p.depth].at
		if next <= r.from || at < 0 || extentAt(leaf, at).end() <= r.from {
			return r.from, v.flatten(ed, r.in)
		}
		if r.nodes == 0 {
			return next, ErrContinue
		}
		r.nodes--
		if next, err = v.removeInLeaf(ed, r, &p, next); err != nil {
			return next, err
		}
	}
}

// removeInLeaf removes what a leaf has before to, and returns how far it came.
func (v *Volume) removeInLeaf(ed Editor, r *removal, p *treePath, to Lblk) (_ Lblk, err error) {
	leaf, last := p.node(r.in, p.depth), p.nodes[p.depth].at
	first := last + 1
	var head, rest extent // what stays before and behind the gap of those it cuts
	for i := last; i >= 0 && head.n == 0; i-- {
		x := extentAt(leaf, i)
		end := min(x.end(), to)
		if end <= r.from {
			break
		}
		begin := max(x.lblk, r.from)
		if to, err = v.reach(r, begin, end, x.phys+Block(begin-x.lblk)); err != nil {
			return to, err
		}
		if to == end {
			r.nodes = 0 // nothing more can be afforded
			break
		}
		first, head = i, x.before(to)
		if i == last {
			rest = x.after(end)
		}
		gap := x.before(end).after(to)
		if i == last && head.n > 0 && rest.n > 0 {
			// NB: first the tree. What was freed cannot be allocated for it before it is durable,
			// but would make a full filesystem look as if it only had to wait.
			if err := v.replaceExtents(ed, r.in, p, i, 1, [...]extent{head, rest, {}}); err != nil {
				return to, err
			}
			return to, v.freeData(ed, r, to, end, gap.phys)
		}
		if err := v.freeData(ed, r, to, end, gap.phys); err != nil {
			return to, err
		}
	}
	if first > last {
		return to, nil
	}
	return to, v.replaceExtents(ed, r.in, p, first, last-first+1, [...]extent{head, rest, {}})
}

// dropNodes frees the leaf of a path, whose extents are gone, and the nodes above it that have
// nothing else.
func (v *Volume) dropNodes(ed Editor, in *Inode, p *treePath) error {
	level := p.depth
	for ; level > 0; level-- {
		if err := v.freeNode(ed, in, p.nodes[level].block); err != nil {
			return err
		}
		if level == 1 || entries(p.node(in, level-1)) > 1 {
			break
		}
	}
	level--
	node, err := p.edit(ed, in, level)
	if err != nil {
		return err
	}
	deleteEntries(node, p.nodes[level].at, 1)
	if entries(node) == 0 { // the root
		initNode(node, rootEntries, 0)
		return nil
	}
	p.depth = level
	if err := v.fixKeys(ed, in, p, level); err != nil {
		return err
	}
	v.sealPath(in, p)
	return nil
}

// flatten makes a tree less deep whose root has one child with so few entries that the root can
// hold them. (The kernel does so where the child is a leaf.)
func (v *Volume) flatten(ed Editor, in *Inode) error {
	root := in.IBlock[:]
	for {
		depth, err := v.treeRoot(in)
		if err != nil || depth == 0 || entries(root) != 1 {
			return err
		}
		b, child, err := v.treeChild(ed, in, root, 0, depth-1, in.Where, lblkMax)
		if err != nil || entries(child) > rootEntries {
			return err
		}
		n := entries(child)
		clear(root)
		initNode(root, rootEntries, depth-1)
		copy(nodeSpan(root, 0, n), nodeSpan(child, 0, n))
		setEntries(root, n)
		if err := v.freeNode(ed, in, b); err != nil {
			return err
		}
	}
}
