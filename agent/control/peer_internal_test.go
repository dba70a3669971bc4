package control

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// meet gives both ends of a connection through a door.
func meet(t *testing.T) *visitor {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	d, err := open(path, -1, -1, newCrowd())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	v, err := d.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v.(*visitor)
}

// The kernel says who is at the other end: this very process.
func TestPeer(t *testing.T) {
	p := meet(t).peer
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if p.pid != int32(os.Getpid()) || p.uid != uint32(os.Geteuid()) || !p.in(uint32(os.Getegid())) {
		t.Errorf("%+v, want process %d, user %d, group %d", p, os.Getpid(), os.Geteuid(), os.Getegid())
	}
	for _, g := range groups {
		if !p.in(uint32(g)) {
			t.Errorf("%+v is not in group %d", p, g)
		}
	}
}

// Changes are for root, for the agent's user, and for members of the group that the socket has now.
func TestWhoMayChange(t *testing.T) {
	v := meet(t)
	own, ok := v.door.group()
	if !ok {
		t.Fatal("the socket has no group")
	}
	me, other := uint32(os.Geteuid()), uint32(os.Geteuid())+1
	for name, c := range map[string]struct {
		peer peer
		may  bool
	}{
		"root":                          {peer{uid: 0, groups: []uint32{own + 1}}, true},
		"the agent's user":              {peer{uid: me, groups: []uint32{own + 1}}, true},
		"a member":                      {peer{uid: other, groups: []uint32{own + 1, own}}, true},
		"somebody":                      {peer{uid: other, groups: []uint32{own + 1}}, false},
		"nobody with no group at all":   {peer{uid: 65534}, false},
		"who has the group's id as his": {peer{uid: other, groups: []uint32{other}}, other == own},
	} {
		v.peer = c.peer
		if may := v.mayChange(); may != c.may {
			t.Errorf("%s may change something: %v", name, may)
		}
	}
	// Another socket in its place, with whatever group, says nothing about this one.
	if err := os.Remove(v.door.path); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", v.door.path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	v.peer = peer{uid: other, groups: []uint32{own}}
	if v.mayChange() {
		t.Error("a member of the group of a socket that is another's may change something")
	}
}

// What somebody put in the place of a socket that is being made does not become everybody's.
func TestDressingSomethingElse(t *testing.T) {
	dir := t.TempDir()
	secret, link := filepath.Join(dir, "secret"), filepath.Join(dir, "link")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{secret, link, filepath.Join(dir, "nothing")} {
		if _, err := dress(path, -1, -1); err == nil {
			t.Errorf("%s is dressed", path)
		}
	}
	if info, err := os.Lstat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// One user, and all users, who may change nothing leave room for those who may.
func TestCrowd(t *testing.T) {
	c := newCrowd()
	fill := func(uid uint32, trusted bool) (leave []func()) {
		for {
			l := c.enter(uid, trusted)
			if l == nil {
				return leave
			}
			leave = append(leave, l)
		}
	}
	one := fill(1000, false)
	if len(one) != maxOfUser {
		t.Errorf("one user has %d connections", len(one))
	}
	all := len(one)
	for uid := range uint32(100) {
		all += len(fill(2000+uid, false))
	}
	if all != maxOfOthers {
		t.Errorf("all others have %d connections", all)
	}
	if n := len(fill(0, true)); n != maxTrusted {
		t.Errorf("who may change something has %d connections", n)
	}
	one[0]()
	one[0]() // a connection can be closed twice
	if n := len(slices.Concat(fill(1000, false), fill(3000, false))); n != 1 {
		t.Errorf("%d connections in the place of one", n)
	}
}
