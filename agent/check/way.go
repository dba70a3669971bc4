package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"certagent/store/durable"
)

// Way is a path as the kernel follows it.
type Way struct {
	Dirs []File // every directory that is gone through, each once
	End  File   // what the path leads to
}

// look follows a path, links included. What is not there is fs.ErrNotExist, what this process may not see fs.ErrPermission; the
// directories up to there are given with the error.
func look(path string) (Way, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Way{}, err
	}
	r := &recorder{FS: durable.OS{}, seen: map[string]bool{}}
	trusting := durable.Trust{
		Others: func(fs.FileInfo) durable.Others { return durable.Others{} }, // what it leads through is judged afterwards
		Owns:   func(int) bool { return true },
	}
	for links := 0; ; links++ {
		dir, _, err := durable.Walk(r, filepath.Dir(path), trusting)
		if err != nil {
			return r.way, err
		}
		path = filepath.Join(dir, filepath.Base(path))
		info, err := os.Lstat(path)
		if err != nil {
			return r.way, err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			r.way.End, err = fileOf(path, info)
			return r.way, err
		}
		if links == 40 {
			return r.way, fmt.Errorf("%s: too many links", path)
		}
		target, err := os.Readlink(path)
		if err != nil {
			return r.way, err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		path = target
	}
}

// recorder notes the directories that a walk goes through.
type recorder struct {
	durable.FS
	way  Way
	seen map[string]bool
}

// Lstat is that of the file system.
func (r *recorder) Lstat(path string) (fs.FileInfo, error) {
	info, err := r.FS.Lstat(path)
	if err != nil || !info.IsDir() || r.seen[path] {
		return info, err
	}
	r.seen[path] = true
	dir, err := fileOf(path, info)
	r.way.Dirs = append(r.way.Dirs, dir)
	return info, err
}

// fileOf is what decides over access to a file that info is of.
func fileOf(path string, info fs.FileInfo) (File, error) {
	uid, gid := durable.Owner(info)
	f := File{Path: path, Dir: info.IsDir(), Mode: info.Mode(), UID: uid, GID: gid, Owners: userName(uid) + ":" + groupName(gid)}
	if info.Mode().Type() != 0 && !info.IsDir() {
		return f, nil // what is neither has no list that matters here
	}
	data := make([]byte, 64<<10) // XATTR_SIZE_MAX
	n, err := unix.Lgetxattr(path, "system.posix_acl_access", data)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return f, nil
	case err != nil:
		return f, &fs.PathError{Op: "getxattr", Path: path, Err: err}
	}
	f.ACL, err = parseACL(data[:n])
	return f, err
}

// barred gives a file of a state directory that u could not do with as an agent does: read it, and change what is in a directory.
// A restored backup and a look with sudo leave such. What does not belong to a store is passed over.
func (u User) barred(dir string) (found File, is bool) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error { //nolint:errcheck // it gives none
		if err != nil || path == dir {
			return nil // it went meanwhile, or was judged as what lies above it
		}
		if d.IsDir() && filepath.Dir(path) == dir && !slices.Contains([]string{"certs", "trust"}, d.Name()) {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil || !d.IsDir() && !info.Mode().IsRegular() {
			return nil
		}
		f, err := fileOf(path, info)
		if err == nil && (!u.may(f, Read) || f.Dir && !(u.may(f, Write) && u.may(f, Enter))) {
			found, is = f, true
			return fs.SkipAll
		}
		return nil
	})
	return found, is
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

func groupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}

// UserOf is the user with a number, with the groups that the system's user database gives him (getgrouplist(3); the
// program reads /etc/passwd and /etc/group itself). primary is the group of one that the database does not know.
func UserOf(uid, primary int) User {
	u := User{UID: uid, GIDs: []int{primary}, Name: strconv.Itoa(uid)}
	known, err := user.LookupId(u.Name)
	if err != nil {
		return u
	}
	u.Name = known.Username
	if gid, err := strconv.Atoi(known.Gid); err == nil {
		u.GIDs = []int{gid}
	}
	ids, err := known.GroupIds()
	if err != nil {
		return u // his own group is what is known
	}
	for _, id := range ids {
		if gid, err := strconv.Atoi(id); err == nil && gid != u.GIDs[0] {
			u.GIDs = append(u.GIDs, gid)
		}
	}
	return u
}

// groupID is the number of a group; -1 where the database does not know it.
func groupID(name string) int {
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1
	}
	return gid
}
