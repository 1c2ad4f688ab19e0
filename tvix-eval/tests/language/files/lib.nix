{ value = 1; fn = x: x + 1; here = ./.; }
