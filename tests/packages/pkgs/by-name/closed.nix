{ make, lib }: make { name = "closed-1"; meta.license = lib.licenses.closed; }
