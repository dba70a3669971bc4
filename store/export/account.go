package export

import (
	"errors"
	"fmt"
	"math"
	"os/user"
	"strconv"

	"certagent/store/durable"
)

// perm is owner, group and mode of an output, with names looked up in the system's user database now. The program is
// built without cgo and reads /etc/passwd and /etc/group themselves.
func (w Writer) perm(o Output) (durable.Perm, error) {
	if o.Format.holdsKey() && o.Mode&0o007 != 0 {
		return durable.Perm{}, fmt.Errorf("write %s: mode %s would let everybody at a private key", o.Path, octal(o.Mode))
	}
	uid, err := account(o.Owner, w.UID, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	if err != nil {
		return durable.Perm{}, refuseAccount(o, "user", o.Owner, err)
	}
	gid, err := account(o.Group, w.GID, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	if err != nil {
		return durable.Perm{}, refuseAccount(o, "group", o.Group, err)
	}
	return durable.Perm{Mode: o.Mode, UID: uid, GID: gid}, nil
}

// errNoID says that a number is none that a user or group can have.
var errNoID = errors.New("no number of a user or group")

// account is the number of a user or group: own where there is no name, a number as it stands, else what find says.
func account(name string, own int, find func(name string) (string, error)) (int, error) {
	if name == "" {
		return own, nil
	}
	id, err := strconv.ParseInt(name, 10, 64)
	if err != nil {
		if name, err = find(name); err != nil {
			return 0, err
		}
		if id, err = strconv.ParseInt(name, 10, 64); err != nil {
			return 0, errNoID
		}
	}
	// The last 32 bit number means "leave as it is" to chown(2), and the upper half does not fit an int everywhere.
	if id < 0 || id > math.MaxInt32 {
		return 0, errNoID
	}
	return int(id), nil
}

// userName is a user for people to read.
func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return "user " + u.Username
	}
	return fmt.Sprint("user ", uid)
}

// groupName is a group for people to read.
func groupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return "group " + g.Name
	}
	return fmt.Sprint("group ", gid)
}
