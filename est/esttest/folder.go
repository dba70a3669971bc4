package esttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// folder keeps pairs over restarts: NAME.pem, and NAME.key.pem with mode 0600, in one directory. The empty folder keeps
// nothing. A key is made once and never replaced, and is on disk before its certificate; so a crash between the two
// leaves a key alone, from which the next start makes the certificate.
type folder string

func (f folder) certFile(name string) string { return filepath.Join(string(f), name+".pem") }
func (f folder) keyFile(name string) string  { return filepath.Join(string(f), name+".key.pem") }

// load returns what is there of a pair, nil for a file that is not there. A file that cannot be read is an error.
func (f folder) load(name string) (pair, error) {
	var p pair
	if f == "" {
		return p, nil
	}
	key, err := readPEM(f.keyFile(name), "PRIVATE KEY", func(der []byte) (*ecdsa.PrivateKey, error) {
		k, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, err
		}
		ec, ok := k.(*ecdsa.PrivateKey)
		if !ok {
			return nil, errors.New("not an EC key")
		}
		return ec, nil
	})
	if err != nil {
		return p, err
	}
	cert, err := readPEM(f.certFile(name), "CERTIFICATE", x509.ParseCertificate)
	if err != nil {
		return p, err
	}
	return pair{cert, key}, nil
}

// readPEM parses the first block of a file; it returns nil where there is no file.
func readPEM[T any](file, blockType string, parse func([]byte) (*T, error)) (*T, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read test CA: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != blockType {
		return nil, damaged(file, fmt.Errorf("no PEM block %s in it", blockType))
	}
	v, err := parse(block.Bytes)
	if err != nil {
		return nil, damaged(file, err)
	}
	return v, nil
}

func damaged(file string, err error) error {
	return fmt.Errorf("%s is damaged: %w; restore it, or move %s away to begin a new CA", file, err, filepath.Dir(file))
}

// key returns the key of a pair as loaded, or makes one and writes it.
func (f folder) key(name string, loaded *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	if loaded != nil {
		return loaded, nil
	}
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", name, err)
	}
	if f == "" {
		return key, nil
	}
	data, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(f.keyFile(name), 0o600, data)
}

// write puts certificates into NAME.pem; one that has the same bytes already is left alone.
func (f folder) write(name string, mode fs.FileMode, certs ...*x509.Certificate) error {
	if f == "" {
		return nil
	}
	data := certPEM(certs...)
	if old, err := os.ReadFile(f.certFile(name)); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return writeFile(f.certFile(name), mode, data)
}

// writeFile replaces a file in one step and returns when it is on disk: a temporary file beside it with the final mode
// before the first byte, fsync, rename, fsync of the directory.
func writeFile(file string, mode fs.FileMode, data []byte) (err error) {
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("write test CA: %w", err)
	}
	defer dir.Close()
	tmp, err := os.CreateTemp(dir.Name(), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write test CA: %w", err)
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
			err = fmt.Errorf("write %s: %w", file, err)
		}
	}()
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	return dir.Sync()
}
