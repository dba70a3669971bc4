package export

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strings"
	"syscall"

	"certagent/store/durable"
	"certagent/store/keys"
)

// RefusedError says that an output is not as it should be, and that trying again helps only after a person, or whoever
// provides what is missing, has done something. What was there before is still there.
type RefusedError struct {
	Path string // of the output
	Why  string // a clause that names what is in the way
	Hint string // what to do
	Err  error  // cause, nil if there is no more to say
}

func (e *RefusedError) Error() string { return "write " + e.Path + ": " + e.Why + " (" + e.Hint + ")" }

// Unwrap gives the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// dropIn is how a person gives the agent's systemd unit another setting (systemctl(1), systemd.exec(5)).
func dropIn(lines ...string) string {
	return `"systemctl edit certagent" with [Service] ` + strings.Join(lines, " and ") + ", then restart it"
}

// explain turns an error of the system into one that says what to do, where a person can do something.
func (f *file) explain(err error) error {
	refuse := func(why, hint string) error { return &RefusedError{Path: f.out.Path, Why: why, Hint: hint, Err: err} }
	if e, ok := errors.AsType[*durable.ChownError](err); ok {
		switch {
		case errors.Is(err, syscall.EINVAL):
			return refuse("the agent runs in a user namespace that does not know the owner or group of the file",
				dropIn("PrivateUsers=no"))
		case errors.Is(err, syscall.EPERM) && e.UID >= 0:
			return refuse("the agent may not give files to "+userName(e.UID),
				"leave owner out and let the consumer read it as a member of its group, or "+
					dropIn("AmbientCapabilities=CAP_CHOWN", "CapabilityBoundingSet=CAP_CHOWN"))
		case errors.Is(err, syscall.EPERM):
			name := strings.TrimPrefix(groupName(e.GID), "group ")
			return refuse("the agent is no member of group "+name, dropIn("SupplementaryGroups="+name))
		}
	}
	if e, ok := errors.AsType[*durable.UnsafeError](err); ok {
		hint := e.Fix
		if hint == "" {
			hint = "choose a path that only root and the agent may change"
		}
		return refuse(e.Why, hint)
	}
	dir := f.dir()
	if e, ok := errors.AsType[*durable.KindError](err); ok {
		return refuse(e.Error(), "remove it, or choose another path: certagent replaces nothing but files")
	}
	switch {
	case errors.Is(err, syscall.EBUSY):
		return refuse("something is mounted on it, so that it cannot be replaced in one step",
			"mount the directory "+dir+" instead of the file, as with containers")
	case errors.Is(err, syscall.ENAMETOOLONG):
		return refuse("its name is too long", "choose a shorter one")
	case errors.Is(err, syscall.EROFS):
		return refuse("the agent sees "+dir+" as read-only",
			dropIn("ReadWritePaths="+dir)+"; or mount the disk for writing again")
	case errors.Is(err, fs.ErrPermission):
		return refuse("the agent may not write in "+dir,
			fmt.Sprintf("chown %s %s, or give its group the right to write there", f.by.name(), dir))
	case errors.Is(err, fs.ErrNotExist):
		return refuseMissing(f, dir)
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		err = fmt.Errorf("rename into place: %w", e.Err) // without a temporary name
	}
	return fmt.Errorf("write %s: %w", f.out.Path, err)
}

// name is the agent's user as chown(1) takes it.
func (w Writer) name() string { return strings.TrimPrefix(userName(w.UID), "user ") }

func refuseMissing(f *file, dir string) error {
	return &RefusedError{Path: f.out.Path, Why: "the directory " + dir + " does not exist",
		Hint: fmt.Sprintf("install -d -o %s %s, and %s", f.by.name(), dir, dropIn("ReadWritePaths="+dir)),
		Err:  fs.ErrNotExist}
}

// refuseEntry is about a directory on the way to an output.
func refuseEntry(f *file, dir string, err error) error {
	return &RefusedError{Path: f.out.Path, Why: "the agent may not enter " + dir,
		Hint: fmt.Sprintf("chmod o+x %s, or choose a path that does not go through it", dir), Err: err}
}

// refuseAccount is about a user or group that is not there; other errors of the look-up may pass.
func refuseAccount(o Output, what, name string, err error) error {
	_, noUser := errors.AsType[user.UnknownUserError](err)
	_, noGroup := errors.AsType[user.UnknownGroupError](err)
	if !noUser && !noGroup && !errors.Is(err, errNoID) {
		return fmt.Errorf("write %s: look up %s %q: %w", o.Path, what, name, err)
	}
	return &RefusedError{Path: o.Path, Why: fmt.Sprintf("there is no %s %q", what, name),
		Hint: "create it, or correct the configuration; one that another database than /etc/" +
			map[string]string{"user": "passwd", "group": "group"}[what] + " has is written as a number",
		Err: err}
}

var errNoCA = errors.New("no CA certificate is known for it")

// refuseMaterial is about a certificate or key that the format cannot hold, or lacks something for.
func refuseMaterial(o Output, err error) error {
	hint := "set trusted_certs to the CA certificates, or choose another format"
	switch {
	case errors.Is(err, keys.ErrNotExportable):
		hint = "choose a format without the key"
	case o.Format == PKCS12:
		hint = "check the password: it is for people's keyboards, without characters beyond U+FFFF"
	}
	return &RefusedError{Path: o.Path, Why: err.Error(), Hint: hint, Err: err}
}

var (
	errNoPassword = errors.New("the file's first line is empty")
	errEncoding   = errors.New("it is not in UTF-8, or begins with a byte order mark, and nobody could type it")
)

func refusePassword(o Output, err error) error {
	hint := "make password_file readable for the agent and for nobody else"
	if err == errNoPassword || err == errEncoding {
		hint = "write the password into the first line of password_file, in UTF-8"
	}
	return &RefusedError{Path: o.Path, Why: "its password cannot be had: " + err.Error(), Hint: hint, Err: err}
}

// refuseTwice is about an output that would go where another one of the same certificate goes.
func refuseTwice(f, other *file) error {
	return &RefusedError{Path: f.out.Path, Why: "it is the same file as the output " + other.out.Path,
		Hint: "give each output a file of its own: links lead both to " + f.path}
}

// heldError is for one of several files that serve together only.
func heldError(f, broken *file) error {
	return fmt.Errorf("write %s: kept as it is, to match what cannot be replaced: %w", f.out.Path, broken.err)
}
