package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// Right is one of the three that a mode and an access control list grant, in the bits of both.
type Right uint16

// The rights. Enter is that of going through a directory, and of executing a file.
const (
	Read  Right = 4
	Write Right = 2
	Enter Right = 1
)

// User is somebody as the kernel knows him: the agent's user.
type User struct {
	UID  int
	GIDs []int // the group and the supplementary groups
	Name string
}

// File is what decides over access to a file or directory.
type File struct {
	Path     string // without links
	Dir      bool
	Mode     fs.FileMode
	UID, GID int
	ACL      []Entry // nil where there is none: the mode decides
	Owners   string  // owner and group for people: "root:certagent"
}

// acl is the list as far as the kernel looks at it: not where the group's bits of the mode, which are its mask, are all clear.
func (f File) acl() []Entry {
	if f.Mode&0o070 == 0 {
		return nil
	}
	return f.ACL
}

// Entry is one of an access control list (acl(5)).
type Entry struct {
	Tag  uint16
	Perm Right
	ID   uint32
}

// Tags of entries, as the kernel writes them (linux/posix_acl.h).
const (
	tagUserObj  = 0x01
	tagUser     = 0x02
	tagGroupObj = 0x04
	tagGroup    = 0x08
	tagMask     = 0x10
	tagOther    = 0x20
)

// parseACL reads the extended attribute system.posix_acl_access: a version, then entries, all little-endian.
func parseACL(data []byte) ([]Entry, error) {
	const version, head, size = 2, 4, 8
	if len(data) < head || (len(data)-head)%size != 0 || binary.LittleEndian.Uint32(data) != version {
		return nil, errors.New("read access control list: not of the form that is known")
	}
	var list []Entry
	for data = data[head:]; len(data) > 0; data = data[size:] {
		list = append(list, Entry{
			Tag: binary.LittleEndian.Uint16(data), Perm: Right(binary.LittleEndian.Uint16(data[2:])), ID: binary.LittleEndian.Uint32(data[4:]),
		})
	}
	return list, nil
}

// may decides as the kernel does whether u has a right over f (acl(5), ACCESS CHECK ALGORITHM). Root, who may override the
// rest, cannot execute what nobody may (capabilities(7), CAP_DAC_OVERRIDE).
func (u User) may(f File, want Right) bool {
	if u.UID == 0 {
		return want != Enter || f.Dir || f.Mode&0o111 != 0
	}
	mode := Right(f.Mode.Perm())
	if u.UID == f.UID {
		return mode>>6&want == want
	}
	mask := Right(7)
	for _, e := range f.acl() {
		if e.Tag == tagMask {
			mask = e.Perm
		}
	}
	for _, e := range f.acl() {
		if e.Tag == tagUser && e.ID == uint32(u.UID) {
			return e.Perm&mask&want == want
		}
	}
	if f.acl() == nil {
		if slices.Contains(u.GIDs, f.GID) {
			return mode>>3&want == want
		}
		return mode&want == want
	}
	member := false
	for _, e := range f.acl() {
		if e.Tag == tagGroupObj && slices.Contains(u.GIDs, f.GID) || e.Tag == tagGroup && slices.Contains(u.GIDs, int(e.ID)) {
			member = true
			if e.Perm&mask&want == want {
				return true
			}
		}
	}
	return !member && mode&want == want
}

// others says who beside root and u has a right over f; "" if nobody has. What a list grants to others is counted, and group is
// one that may have it, -1 for none.
func (u User) others(f File, want Right, group int) string {
	trusted := func(uid int) bool { return uid == 0 || uid == u.UID }
	mask := Right(7)
	groupPerm := Right(f.Mode.Perm()) >> 3 & 7
	for _, e := range f.acl() {
		switch e.Tag {
		case tagMask:
			mask = e.Perm
		case tagGroupObj:
			groupPerm = e.Perm
		}
	}
	switch {
	case Right(f.Mode.Perm())&want != 0:
		return "everybody"
	case want&Write != 0 && !trusted(f.UID):
		return fmt.Sprintf("user %d, whose it is,", f.UID)
	case want&Write == 0 && !trusted(f.UID) && Right(f.Mode.Perm())>>6&want != 0:
		return fmt.Sprintf("user %d, whose it is,", f.UID)
	case groupPerm&mask&want != 0 && f.GID != 0 && f.GID != group && !u.ownGroup(f.GID):
		return fmt.Sprintf("group %d", f.GID)
	}
	for _, e := range f.acl() {
		switch granted := e.Perm&mask&want != 0; {
		case granted && e.Tag == tagUser && !trusted(int(e.ID)):
			return fmt.Sprintf("user %d (by its access control list)", e.ID)
		case granted && e.Tag == tagGroup && e.ID != 0 && int(e.ID) != group && !u.ownGroup(int(e.ID)):
			return fmt.Sprintf("group %d (by its access control list)", e.ID)
		}
	}
	return ""
}

// ownGroup tells the agent's own group, whose members may command the agent anyway, from those that it is in for others' sake.
func (u User) ownGroup(gid int) bool { return len(u.GIDs) > 0 && u.GIDs[0] == gid }

// String is the file for people, as ls(1) shows it, with a "+" for a list.
func (f File) String() string {
	text := f.Mode.String()
	if f.ACL != nil {
		text += "+"
	}
	return fmt.Sprintf("%s (%s %s)", f.Path, text, f.Owners)
}
