package wsx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// certYears is how long a certificate is valid. Wrappers of ours look at its
// key alone; a certificate that ran out would be one more way to lose a task.
const certYears = 30

// NewCertificate makes a self-signed certificate (ECDSA P-256) and its key, in
// PEM.
func NewCertificate(names []string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a serial number: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "Saltpeter"},
		// Machines whose clock is behind are no reason to fail.
		NotBefore:             now.Add(-48 * time.Hour),
		NotAfter:              now.AddDate(certYears, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if n != "" {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot write a key: %w", err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return certPEM, keyPEM, nil
}

// PinOf is the hex SHA-256 of a certificate's public key.
func PinOf(c tls.Certificate) (string, error) {
	if len(c.Certificate) == 0 {
		return "", errors.New("cannot make a pin: there is no certificate")
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return "", fmt.Errorf("cannot make a pin: %w", err)
	}
	return pinOf(leaf), nil
}

func pinOf(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Pinned is how a client checks a server by the hex SHA-256 of its public key
// instead of a CA.
func Pinned(pin, host string) (*tls.Config, error) {
	if pin == "" {
		return nil, errors.New("there is no pin")
	}
	return pinned(pin, host)
}

// pinned is the client's side: with a pin the public key is all that counts,
// without one the system's CAs decide.
func pinned(pin, host string) (*tls.Config, error) {
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if pin == "" {
		return c, nil
	}
	want, err := hex.DecodeString(pin)
	if err != nil || len(want) != sha256.Size {
		return nil, errors.New("the server's pin is not the hex form of a SHA-256")
	}
	c.InsecureSkipVerify = true // names and dates do not matter: VerifyConnection compares the key
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 || pinOf(cs.PeerCertificates[0]) != hex.EncodeToString(want) {
			return errors.New("the server's public key is not the pinned one")
		}
		return nil
	}
	return c, nil
}
