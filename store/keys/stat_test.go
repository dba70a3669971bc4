package keys_test

import (
	"io/fs"
	"syscall"
)

// chown makes what was said about a file tell of another owner.
func chown(info fs.FileInfo, uid int) {
	info.Sys().(*syscall.Stat_t).Uid = uint32(uid)
}
